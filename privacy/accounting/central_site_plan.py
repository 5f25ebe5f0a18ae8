"""The plan that hides a whole site by noise that a trusted coordinator adds to the sum of all updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.base_plan import check_epsilon, with_least_noise
from privacy.accounting.real_noise_plan import RealNoisePlan
from privacy.errors import PlanError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism
from privacy.mechanisms.rng import NoiseSource


@dataclass(frozen=True, kw_only=True)
class CentralSitePlan(RealNoisePlan):
    """A run's sums of the sites' updates, with Gaussian noise from the coordinator's hand, or none.

    Guarantee: (``epsilon``, ``delta``)-differential privacy for one site made blank, whose update is then
    0, the number of sites being public; if every round clips each site's update to ``clipping_norm`` and
    releases nothing but their sum with ``mechanism``'s noise. ``steps`` counts rounds. It holds against all
    but the coordinator. Raises PlanError for noise against sums that are bounded in L1.
    """

    hides_sites: ClassVar[bool] = True

    sampling_rate: float = field(default=1.0, init=False)
    unit: Literal["site"] = field(default="site", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mechanism.norm != 2:
            raise PlanError(f"expected Gaussian noise for whole sites, got {self.mechanism}")

    def epsilon_of_summed(self, survivors: Sequence[int], *, untold: int = 0) -> float:
        """ε spent by sums of so many ``survivors``, and by ``untold`` more: noise is the same in each."""
        return self.epsilon_after(len(survivors) + untold)

    def summed_noise_std(self, survivors: int) -> float:  # noqa: ARG002 - all of it comes from one hand
        """Standard deviation of the noise in each coordinate of a sum of so many ``survivors``."""
        return self.noise_std

    def contribution(self, clipped: ClippedIntegers, source: NoiseSource) -> NDArray[np.int64]:  # noqa: ARG002
        """What a site sends of its clipped update, int64[d]: as it is."""
        return clipped.value

    def as_charged(self) -> CentralSitePlan:
        """What this is to one example of a site: the same noise against twice the sensitivity.

        A blank site adds 0 to the sum. A blank example makes one clipped update of another, and two vectors
        of norm C may be 2C apart.
        """
        half = replace(self.mechanism, multiplier=self.mechanism.multiplier / 2)
        return replace(self, clipping_norm=2 * self.clipping_norm, mechanism=half)


def make_central_site_plan(
    *, noisy: bool, epsilon: float, delta: float, clipping_norm: float, releases: int
) -> CentralSitePlan:
    """Find the least noise that hides a whole site if a trusted coordinator adds it to ``releases`` sums.

    There is none if the plan is not to be ``noisy``. Raises PlanError if no noise multiplier under 1e4
    meets the target, or for values outside their range.
    """
    check_epsilon(epsilon)
    silent = CentralSitePlan(mechanism=NO_NOISE, clipping_norm=clipping_norm, steps=releases, delta=delta)
    if not noisy:
        return silent

    def with_noise(multiplier: float) -> CentralSitePlan:
        return replace(silent, mechanism=Mechanism(name="gaussian", multiplier=multiplier))

    return with_least_noise(with_noise, epsilon=epsilon)
