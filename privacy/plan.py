"""The plan: how much noise a site's whole training adds, fixed before its first step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.accounting import epsilon_by_pld
from privacy.errors import PlanError
from privacy.mechanisms import Mechanism, MechanismName

# Above this the noise drowns every signal; it also bounds the search.
_MULTIPLIER_MAX = 1e4
_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One site's training as its accountant sees it; ``steps`` counts local steps, never rounds.

    Guarantee: (``epsilon_after(steps)``, ``delta``)-differential privacy for one example made blank, the
    number of examples being public, if every step draws a fresh Poisson sample at ``sampling_rate``, clips
    each example to ``clipping_norm`` and adds ``mechanism``'s noise once to the sum.
    """

    mechanism: Mechanism
    clipping_norm: float
    sampling_rate: float
    steps: int
    delta: float

    def epsilon_after(self, steps: int) -> float:
        """ε spent by the first ``steps`` steps; infinite without noise."""
        if self.mechanism.name == "none":
            return math.inf if steps else 0.0
        return epsilon_by_pld(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=steps,
            delta=self.delta,
            horizon=max(self.steps, steps),
        )


def make_plan(
    *,
    mechanism: MechanismName,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    expected_batch_size: int,
    examples: int,
    steps: int,
) -> Plan:
    """Find the least noise whose ε over all ``steps`` is at most ``epsilon``.

    The sampling rate is ``expected_batch_size / examples``. Raises PlanError if the batch is larger
    than the data, or if no noise multiplier under 1e4 meets the target.
    """
    if expected_batch_size > examples:
        raise PlanError(
            f"expected batch_size <= examples at the site, got batch_size={expected_batch_size}, "
            f"examples={examples}: lower training.batch_size or give the site more examples"
        )
    rate = expected_batch_size / examples
    if mechanism == "none":
        chosen = Mechanism(name="none", multiplier=0.0)
    else:
        chosen = _least_noise(mechanism, epsilon=epsilon, delta=delta, rate=rate, steps=steps)
    return Plan(
        mechanism=chosen,
        clipping_norm=clipping_norm,
        sampling_rate=rate,
        steps=steps,
        delta=delta,
    )


def _least_noise(
    name: MechanismName, *, epsilon: float, delta: float, rate: float, steps: int
) -> Mechanism:
    """Bisect on the logarithm of the multiplier; what is returned was itself evaluated."""

    def meets(multiplier: float) -> bool:
        candidate = Mechanism(name=name, multiplier=multiplier)
        spent = epsilon_by_pld(mechanism=candidate, sampling_rate=rate, steps=steps, delta=delta)
        return spent <= epsilon

    if not meets(_MULTIPLIER_MAX):
        raise PlanError(
            f"no noise multiplier under {_MULTIPLIER_MAX:g} reaches epsilon={epsilon} at "
            f"delta={delta} in steps={steps}: raise privacy.epsilon or train fewer steps"
        )
    high = 1.0
    while not meets(high):
        high *= 2.0
    low = high / 2.0
    while meets(low):
        high, low = low, low / 2.0
    while high / low > 1.0 + _RELATIVE_TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return Mechanism(name=name, multiplier=high)
