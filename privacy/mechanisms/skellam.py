"""Skellam noise: integers that sites draw in shares, whose sum protects a sum of integer vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.rng import NoiseSource


@dataclass(frozen=True, kw_only=True)
class IntegerSensitivity:
    """How far one unit moves a sum of integer vectors, in the L1 and the L2 norm (units of the grid)."""

    l1: float
    l2: float

    def __post_init__(self) -> None:
        if not 0.0 < self.l2 <= self.l1 < math.inf:
            raise PlanError(
                f"expected 0 < l2 <= l1, as integer vectors have, got l1={self.l1}, l2={self.l2}"
            )

    def doubled(self) -> IntegerSensitivity:
        """How far a sum moves if one unit's integers change from some to any others."""
        return IntegerSensitivity(l1=2 * self.l1, l2=2 * self.l2)


@dataclass(frozen=True, kw_only=True)
class SkellamMechanism:
    """Integer noise for a sum that is read only as a whole, modulo 2^bits, under masks.

    ``multiplier`` is the noise's σ in that sum over the L2 bound of one unit's integers. It is drawn in
    shares: n of variance v/n add up to exactly one of variance v, which no other noise here does. Raises
    PlanError for a multiplier that is not positive.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995).
    """

    protects: ClassVar[bool] = True
    norm: ClassVar[int] = 2  # that clipping bounds before the rounding to integers

    name: Literal["skellam"] = field(default="skellam", init=False)
    multiplier: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.multiplier) and self.multiplier > 0):
            raise PlanError(f"expected a noise multiplier > 0, got multiplier={self.multiplier}")

    @property
    def std(self) -> float:
        """Standard deviation of the noise in a coordinate of the whole sum, over one unit's L2 bound."""
        return self.multiplier

    def variance(self, bound: float) -> float:
        """σ² of the noise in the whole sum, in squared integer steps."""
        return (self.multiplier * bound) ** 2

    def noise(self, size: int, *, bound: float, source: NoiseSource, shares: int = 1) -> NDArray[np.int64]:
        """Draw one of ``shares`` shares, int64[size], of the noise for an L2 ``bound``.

        Raises PlanError for less than one share, ValueError for a variance that is not in [1e-9, 2^52].
        """
        if shares < 1:
            raise PlanError(f"expected Skellam noise in one share or more, got shares={shares}")
        return source.skellam(size, variance=self.variance(bound) / shares)

    def release(
        self, clipped: ClippedIntegers, source: NoiseSource, *, shares: int = 1
    ) -> NDArray[np.int64]:
        """Add one share of the noise to one unit's integers: int64[d], private in the sum alone.

        Raises what ``noise`` raises.
        """
        return clipped.value + self.noise(
            len(clipped.value), bound=clipped.bound, source=source, shares=shares
        )


@dataclass(frozen=True, kw_only=True)
class SharedNoise:
    """How sites draw the noise of one sum in shares, and on how many of these everyone may count.

    At least ``min_survivors`` sites are in each sum that is read. ``colluding`` of them may know their own
    shares and take them away: those who work with the coordinator, or a single site that looks at the
    result. So a share has 1/``honest`` of the noise's variance. Raises PlanError if no honest share is
    left.
    """

    sensitivity: IntegerSensitivity
    min_survivors: int
    colluding: int

    def __post_init__(self) -> None:
        if not 0 <= self.colluding < self.min_survivors:
            raise PlanError(
                f"expected 0 <= colluding < min_survivors, got min_survivors={self.min_survivors}, "
                f"colluding={self.colluding}: "
                "a sum must hold noise that nobody can take away"
            )

    @property
    def honest(self) -> int:
        """How many shares nobody can take away are in every sum: each site draws one of so many."""
        return self.min_survivors - self.colluding

    def excess(self, survivors: int) -> float:
        """The variance that nobody can take away from a sum of ``survivors``, over the planned one: >= 1.

        Raises PlanError for fewer survivors than every sum has.
        """
        if survivors < self.min_survivors:
            raise PlanError(
                f"expected survivors >= {self.min_survivors} in a sum, got survivors={survivors}"
            )
        return (survivors - self.colluding) / self.honest


def rounded_sensitivity(
    *, l2_bound: float, dimension: int, beta: float = math.exp(-0.5)
) -> IntegerSensitivity:
    """What bounds a vector of L2 norm ``l2_bound``, in grid units, after its rounding to integers.

    The rounding is stochastic and repeated until the norm is within the bound, which one attempt is with
    probability at least 1 - ``beta``. Raises PlanError for a ``beta`` outside (0, 1).

    Source: Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), Proposition 22; L1 norms as in Agarwal,
    Kairouz and Liu 2021 (arXiv:2110.04995), section 4.
    """
    if not (0.0 < beta < 1.0 and l2_bound > 0.0 and dimension >= 1):
        raise PlanError(
            f"expected 0 < beta < 1, l2_bound > 0 and dimension >= 1, got beta={beta}, "
            f"l2_bound={l2_bound}, dimension={dimension}"
        )
    root = math.sqrt(dimension)
    likely = l2_bound**2 + dimension / 4 + math.sqrt(2.0 * math.log(1.0 / beta)) * (l2_bound + root / 2)
    l2 = math.sqrt(min(likely, (l2_bound + root) ** 2))
    return IntegerSensitivity(l1=l2 * min(root, l2), l2=l2)  # |x| <= x² for integers


def scale_for_modulus(
    *,
    bits: int,
    sites: int,
    dimension: int,
    clipping_norm: float,
    noise_multiplier: float,
    deviations: float = 4.0,
) -> float:
    """Grid units per unit of update at which the noisy sum of ``sites`` fits into ``bits`` bits.

    A coordinate of the sum of rotated updates, rounding and noise is taken as subgaussian, and
    ``deviations`` of its standard deviations fit on each side of 0: what lies beyond wraps around and costs
    accuracy, never privacy. Raises PlanError where the modulus is too small for the rounding alone.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995), section 4.1, whose ``k`` is ``deviations``.
    """
    room = 4.0**bits - deviations**2 * sites  # each site's rounding has a variance of at most 1/4
    if room <= 0.0:
        raise PlanError(f"expected 2^bits > deviations · √sites, got bits={bits}, sites={sites}")
    signal = (sites * clipping_norm) ** 2 / dimension
    noise = (noise_multiplier * clipping_norm) ** 2
    return math.sqrt(room / (signal + noise)) / (2.0 * deviations)
