"""Plans whose noise is on real numbers: what privacy loss distributions say that it costs."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.accounting.accountant import epsilon_by_pld, epsilon_by_prv, epsilon_by_rdp, renyi
from privacy.accounting.base_plan import Accountant, BasePlan
from privacy.mechanisms.mechanism import Mechanism


@dataclass(frozen=True, kw_only=True)
class RealNoisePlan(BasePlan):
    """Gaussian or Laplace noise, or none, added to a sum of the units that a step draws.

    ``epsilon`` is by privacy loss distributions, of steps that each draw a fresh Poisson sample at
    ``sampling_rate``.
    """

    mechanism: Mechanism

    @property
    def accountants(self) -> tuple[Accountant, ...]:
        return ("pld", "rdp", "prv") if self.mechanism.norm == 2 else ("pld", "rdp")

    @property
    def pure_epsilon(self) -> float:
        return self.mechanism.pure_epsilon(self.draws(self.steps))

    def renyi(self, order: int) -> float:
        return renyi(mechanism=self.mechanism, sampling_rate=self.sampling_rate, order=order)

    def _spent(self, steps: int) -> float:
        return epsilon_by_pld(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=self.draws(steps),
            delta=self.delta,
            horizon=self.draws(max(self.steps, steps)),
        )

    def _spent_by(self, accountant: Accountant) -> float:
        if accountant == "pld":
            return self.epsilon
        by = epsilon_by_rdp if accountant == "rdp" else epsilon_by_prv
        return by(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=self.draws(self.steps),
            delta=self.delta,
        )
