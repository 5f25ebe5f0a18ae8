"""The plan that hides an example, or a group: noise in each step's sum over a fresh Poisson sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountant import falls_steadily
from privacy.accounting.base_plan import check_epsilon, with_least_noise
from privacy.accounting.real_noise_plan import RealNoisePlan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism, MechanismName

if TYPE_CHECKING:
    from privacy.mechanisms.rng import NoiseSource

# What a sum is over: rows, each by itself, or groups, each of all rows that are one person's.
SampledUnit: TypeAlias = Literal["example", "group"]

# The noise for less would leave float64.
_COUNT_EPSILON_MIN = 1e-300


@dataclass(frozen=True, kw_only=True)
class SampledPlan(RealNoisePlan):
    """A site's local steps, or one count or one release of histograms of its examples.

    Guarantee: (``epsilon``, ``delta``)-differential privacy for one example made blank, the number of
    examples being public; if every step draws a fresh Poisson sample at ``sampling_rate``, clips each
    example to ``clipping_norm`` and adds ``mechanism``'s noise once to the sum. ``steps`` counts local
    steps. It holds whatever the coordinator and the other sites do. With ``unit = "group"`` an example is a
    group of rows: it is drawn whole, and one gradient of all of its rows is clipped.

    Source: Abadi et al. 2016 (arXiv:1607.00133).
    """

    hides_sites: ClassVar[bool] = False

    unit: SampledUnit = "example"

    @property
    def chance_of_being_drawn(self) -> float:
        """The probability that one example is in any of the steps' samples."""
        if self.sampling_rate == 1.0:
            return 1.0
        return -math.expm1(self.draws(self.steps) * math.log1p(-self.sampling_rate))

    def draw(self, source: NoiseSource, examples: int) -> NDArray[np.int64]:
        """Who of a site's examples is in a step's sample: their indices, in order."""
        return source.poisson_sample(examples, rate=self.sampling_rate)

    def noise_of_sum(self, weights: NDArray[np.float64]) -> float:
        """Standard deviation of the noise in each coordinate of the steps' sum, each with its weight."""
        return self.noise_std * float(np.linalg.norm(weights))

    def as_charged(self) -> SampledPlan:
        """What this is to one example: itself."""
        return self


def make_sampled_plan(
    *,
    mechanism: MechanismName,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    expected_batch_size: int,
    examples: int,
    steps: int,
    near: float = 1.0,
    unit: SampledUnit = "example",
) -> SampledPlan:
    """Find the least noise whose ε over all ``steps`` is at most ``epsilon``.

    The sampling rate is ``expected_batch_size / examples``; ``near`` is a guess at the multiplier, which
    the search begins at and what it finds does not depend on: over so many steps that rounding is felt at
    so small a ``delta`` it is left out. Raises PlanError if the batch is larger than
    the data, if no noise multiplier under 1e4 meets the target, if ``delta`` allows for all that are ever
    drawn, or for values outside their range.
    """
    check_epsilon(epsilon)
    if expected_batch_size < 1:
        raise PlanError(f"expected batch_size >= 1, got batch_size={expected_batch_size}")
    if expected_batch_size > examples:
        raise PlanError(
            f"expected batch_size <= {unit}s at the site, got batch_size={expected_batch_size}, "
            f"{unit}s={examples}: lower training.batch_size or give the site more {unit}s"
        )
    # Checked as a plan before the search, which would answer a delta of 0 with a search to the end.
    silent = SampledPlan(
        mechanism=NO_NOISE,
        clipping_norm=clipping_norm,
        sampling_rate=expected_batch_size / examples,
        steps=steps,
        delta=delta,
        unit=unit,
    )
    if mechanism == "none":
        return silent
    drawn = silent.chance_of_being_drawn
    if delta >= drawn:
        # ε would be 0 without any noise: δ is a probability with which nothing is promised.
        raise PlanError(
            f"expected delta < {drawn:.3g}, the chance that {_one(unit)} is drawn at all in steps={steps} "
            f"(batch_size={expected_batch_size} of {unit}s={examples}), got delta={delta}: noise would "
            "protect nobody; lower privacy.delta"
        )

    def noisy(multiplier: float) -> SampledPlan:
        return replace(silent, mechanism=Mechanism(name=mechanism, multiplier=multiplier))

    steady = falls_steadily(steps=steps, delta=delta)
    return with_least_noise(noisy, epsilon=epsilon, near=near if steady else 1.0)


def make_count_plan(*, epsilon: float, delta: float, unit: SampledUnit = "example") -> SampledPlan:
    """One release of a sum in which an example weighs at most 1, with Laplace noise of scale 1/``epsilon``.

    It gives ``epsilon`` at δ = 0, with multiplier · ``epsilon`` >= 1 exactly; ``delta`` is there for those
    who count in pairs. Raises PlanError for an ``epsilon`` that no noise gives.
    """
    if not _COUNT_EPSILON_MIN <= epsilon < math.inf:
        raise PlanError(f"expected {_COUNT_EPSILON_MIN:g} <= epsilon < inf, got epsilon={epsilon}")
    multiplier = 1.0 / epsilon
    if Fraction(multiplier) * Fraction(epsilon) < 1:
        # Rounded the wrong way: it would cost a little more than was asked for.
        multiplier = math.nextafter(multiplier, math.inf)
    return SampledPlan(
        mechanism=Mechanism(name="laplace", multiplier=multiplier),
        clipping_norm=1.0,
        sampling_rate=1.0,
        steps=1,
        delta=delta,
        unit=unit,
    )


def make_histogram_plan(*, histograms: int, epsilon: float, delta: float) -> SampledPlan:
    """One release of so many histograms, with the least Gaussian noise whose ε is at most ``epsilon``.

    An example is in one bin of each at most, so ``clipping_norm``, the L2 distance that it makes, is
    √histograms, in examples. All are one event, and no part of the data is sampled. Raises PlanError for
    numbers that no noise fits.
    """
    return make_sampled_plan(
        mechanism="gaussian",
        epsilon=epsilon,
        delta=delta,
        clipping_norm=math.sqrt(histograms),
        expected_batch_size=1,
        examples=1,  # the sampling rate is 1, whatever their number
        steps=1,
    )


def _one(unit: SampledUnit) -> str:
    return "an example" if unit == "example" else "a group"
