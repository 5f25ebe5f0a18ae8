"""Skellam noise: integers that sites draw in shares, whose sum protects a sum of integer vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.accounting.accountant import RENYI_ORDERS, epsilon_from_renyi
from privacy.errors import PlanError


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
class SharedNoise:
    """How sites draw the noise of one sum in shares, and on how many of these everyone may count.

    At least ``fewest`` sites are in each sum that is read. ``colluding`` of them may know their own shares
    and take them away: those who work with the coordinator, or a single site that looks at the result. So
    a share has 1/``honest`` of the noise's variance. Raises PlanError if no honest share is left.
    """

    sensitivity: IntegerSensitivity
    fewest: int
    colluding: int

    def __post_init__(self) -> None:
        if not 0 <= self.colluding < self.fewest:
            raise PlanError(
                f"expected 0 <= colluding < fewest, got fewest={self.fewest}, colluding={self.colluding}: "
                "a sum must hold noise that nobody can take away"
            )

    @property
    def honest(self) -> int:
        """How many shares nobody can take away are in every sum: each site draws one of so many."""
        return self.fewest - self.colluding

    def excess(self, survivors: int) -> float:
        """The variance that nobody can take away from a sum of ``survivors``, over the planned one: >= 1.

        Raises PlanError for fewer survivors than every sum has.
        """
        if survivors < self.fewest:
            raise PlanError(f"expected survivors >= {self.fewest} in a sum, got survivors={survivors}")
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


def skellam_renyi(*, sensitivity: IntegerSensitivity, variance: float, order: int) -> float:
    """Rényi divergence, in nats at an integer ``order`` >= 2, of one release of a sum: an upper bound.

    ``variance`` is that of the noise in a coordinate of the sum, in grid units squared: the sum over those
    whose shares of noise are in it. Raises PlanError for another order or a variance that is not positive.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995), Theorem 3.5.
    """
    if order != int(order) or order < 2 or not 0.0 < variance < math.inf:
        raise PlanError(
            f"expected an integer order >= 2 and a variance > 0, got order={order}, variance={variance}"
        )
    l1, squared = sensitivity.l1, sensitivity.l2**2
    beyond_gaussian = min(
        ((2 * order - 1) * squared + 6 * l1) / (4 * variance**2),
        3 * l1 / (2 * variance),
    )
    return order * squared / (2 * variance) + beyond_gaussian


def skellam_epsilon(
    *, sensitivity: IntegerSensitivity, variance: float, releases: int, delta: float
) -> float:
    """ε at ``delta`` of ``releases`` sums, each with fresh noise of this ``variance``: an upper bound."""
    return summed_epsilon(sensitivity=sensitivity, releases={variance: releases}, delta=delta)


def summed_epsilon(
    *, sensitivity: IntegerSensitivity, releases: Mapping[float, int], delta: float
) -> float:
    """ε at ``delta`` of sums with fresh noise, so many ``releases`` of each variance: an upper bound.

    Divergences of one order add up (Mironov 2017, arXiv:1702.07476, Proposition 1).
    """
    spent = {
        order: sum(
            count * skellam_renyi(sensitivity=sensitivity, variance=variance, order=order)
            for variance, count in releases.items()
        )
        for order in RENYI_ORDERS
    }
    return epsilon_from_renyi(spent, delta=delta)
