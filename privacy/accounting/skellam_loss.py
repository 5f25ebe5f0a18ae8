"""What sums under Skellam noise cost: Rényi divergences that add up, and the ε that they give."""

from __future__ import annotations

import math
from collections.abc import Mapping

from privacy.accounting.accountant import RENYI_ORDERS, epsilon_from_renyi
from privacy.errors import PlanError
from privacy.mechanisms.skellam import IntegerSensitivity


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
