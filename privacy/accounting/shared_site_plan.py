"""The plan that hides a whole site by noise that the sites draw in shares, and that only the sum has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.base_plan import Accountant, BasePlan, check_epsilon, with_least_noise
from privacy.accounting.skellam_loss import skellam_renyi, summed_epsilon
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.rng import NoiseSource
from privacy.mechanisms.skellam import IntegerSensitivity, SharedNoise, SkellamMechanism


@dataclass(frozen=True, kw_only=True)
class SharedSitePlan(BasePlan):
    """A run's sums of the sites' updates, as integers under masks, with Skellam noise in ``shared`` shares.

    Guarantee: (``epsilon``, ``delta``)-differential privacy for one site made blank, whose update is then
    0, the number of sites being public; if every round bounds each site's integers by ``shared``'s
    sensitivity and releases nothing but their sum, in which at least ``shared.honest`` shares of the noise
    are that nobody can take away. ``steps`` counts rounds. It holds against the coordinator too, and any
    ``shared.colluding`` sites with it.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995).
    """

    hides_sites: ClassVar[bool] = True

    mechanism: SkellamMechanism
    shared: SharedNoise
    sampling_rate: float = field(default=1.0, init=False)
    unit: Literal["site"] = field(default="site", init=False)

    @property
    def accountants(self) -> tuple[Accountant, ...]:
        return ("rdp",)

    def epsilon_of_summed(self, survivors: Sequence[int], *, untold: int = 0) -> float:
        """ε spent by sums of so many ``survivors``, and by ``untold`` more of as few as are allowed.

        Each survivor brings its share of the noise. Raises PlanError for fewer than the plan's sums have.
        """
        if not survivors and not untold:
            return 0.0
        excesses = Counter(map(self.shared.excess, survivors)) + Counter({1.0: untold})
        return summed_epsilon(
            sensitivity=self.shared.sensitivity,
            releases={self._variance * excess: count for excess, count in excesses.items()},
            delta=self.delta,
        )

    def summed_noise_std(self, survivors: int) -> float:
        """Standard deviation of the noise in each coordinate of a sum of so many ``survivors``.

        Raises PlanError for fewer than the plan's sums have.
        """
        return self.noise_std * math.sqrt(self.shared.excess(survivors))

    def contribution(self, clipped: ClippedIntegers, source: NoiseSource) -> NDArray[np.int64]:
        """What a site sends of its clipped update, int64[d]: with its share of noise, private in a sum.

        Raises PrivacyUnitError for integers bounded otherwise than those that ε was computed for.
        """
        planned = self.shared.sensitivity
        # Both L1 bounds are products of the same numbers, in another order: off by roundings.
        if clipped.bound != planned.l2 or clipped.l1_bound > planned.l1 * (1 + 1e-12):
            raise PrivacyUnitError(
                f"expected integers bounded as in the plan, l2={planned.l2} and l1={planned.l1}, got "
                f"l2={clipped.bound} and l1={clipped.l1_bound}: encode for the plan's own noise multiplier"
            )
        return self.mechanism.release(clipped, source, shares=self.shared.honest)

    def renyi(self, order: int) -> float:
        return skellam_renyi(sensitivity=self.shared.sensitivity, variance=self._variance, order=order)

    def as_charged(self) -> SharedSitePlan:
        """What this is to one example of a site: the same noise against twice the sensitivity.

        A blank site adds 0 to the sum. A blank example makes one vector of clipped integers of another, and
        two within a bound may be twice that bound apart.
        """
        return replace(
            self,
            clipping_norm=2 * self.clipping_norm,
            mechanism=replace(self.mechanism, multiplier=self.mechanism.multiplier / 2),
            shared=replace(self.shared, sensitivity=self.shared.sensitivity.doubled()),
        )

    def cautions(self, examples: int) -> tuple[str, ...]:
        found = super().cautions(examples)
        if self.shared.colluding:
            return found
        return (
            *found,
            "colluding=0: a site knows its own share of the noise, and others are hidden from it by "
            "the rest alone. Plan with colluding=1 to hide them from one another too.",
        )

    @property
    def _variance(self) -> float:
        """Of the planned noise in a coordinate of the sum, in squared integers."""
        return self.mechanism.variance(self.shared.sensitivity.l2)

    def _spent(self, steps: int) -> float:
        return self.epsilon_of_summed((), untold=steps)

    def _spent_by(self, accountant: Accountant) -> float:  # noqa: ARG002 - there is one
        return self.epsilon


def make_shared_site_plan(
    *,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    releases: int,
    sensitivity_of: Callable[[float], IntegerSensitivity],
    min_survivors: int,
    colluding: int,
) -> SharedSitePlan:
    """Find the least Skellam noise, in shares, that hides a whole site in ``releases`` sums.

    ``sensitivity_of`` gives the grid, as far as one site's integers reach on it, for a noise multiplier:
    more noise needs more of the modulus. Raises PlanError if no noise multiplier under 1e4 meets the
    target, for values outside their range, and what ``sensitivity_of`` raises.
    """
    check_epsilon(epsilon)

    def noisy(multiplier: float) -> SharedSitePlan:
        return SharedSitePlan(
            mechanism=SkellamMechanism(multiplier=multiplier),
            clipping_norm=clipping_norm,
            steps=releases,
            delta=delta,
            shared=SharedNoise(
                sensitivity=sensitivity_of(multiplier), min_survivors=min_survivors, colluding=colluding
            ),
        )

    return with_least_noise(noisy, epsilon=epsilon)
