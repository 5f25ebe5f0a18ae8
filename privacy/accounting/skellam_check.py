"""A second accountant for Skellam noise, by its probabilities alone: the first one is checked against it.

It shares nothing with ``privacy.accounting.skellam_loss``: no bound on a divergence, only the noise's
distribution on the integers, and changes of the sum that a site can really make. What it finds is a lower
bound on any Rényi divergence that may be claimed, so an account that claims less is wrong: a round that was
forgotten, too little noise, a sensitivity that was not doubled.

An account that is too low by less than the first one lies above this one is not found. With σ a thousand
steps that is a relative 1e-3 of ε, and less on finer grids; with σ of a few steps it may be half of it. Nor
does it know whether sites clip, round and draw as the plan says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive  # type: ignore[import-untyped]

from privacy.errors import PlanError

Floats = NDArray[np.float64]

_ORDERS = (*range(2, 257), 512, 1024)
_REACH = 12.0  # deviations that are looked at beyond the integrand's peak: a mass of 4e-33 lies beyond
_STRIDE = 16.0  # points a deviation where there are more integers than that
_LARGE = 60.0  # where the expansion for large orders is right to 1e-8
# With less nothing is hidden, and the sums would be long.
_LEAST_VARIANCE, _LEAST_MULTIPLIER = 1e-3, 1e-3
# A coordinate that moves by less, over σ, adds to the divergence what float64 cannot resolve.
_LEAST_SHIFT = 1e-3


@lru_cache(maxsize=4096)
def skellam_renyi_by_sum(*, l1: float, l2: float, variance: float, order: int) -> float:
    """Rényi divergence of a sum that integers within ``l1`` and ``l2`` moved, in nats: a lower bound.

    Two changes are tried, and the one that shows more counts: all of it in one coordinate, and the same
    step in as many coordinates as both norms allow. Computed to a relative 1e-6. Raises PlanError for a
    variance under 1e-3, or under a millionth of ``l2`` squared.

    Source: the definition (Mironov 2017, arXiv:1702.07476, definition 3).
    """
    least = max(_LEAST_VARIANCE, (_LEAST_MULTIPLIER * l2) ** 2)
    if not least <= variance < math.inf:
        raise PlanError(f"expected integer noise of variance >= {least:g}, got variance={variance}")
    return max(
        (
            count * _divergence(shift, variance=variance, order=order)
            for shift, count in _changes(l1, l2)
            if shift == math.floor(l2) or shift >= _LEAST_SHIFT * math.sqrt(variance)
        ),
        default=0.0,
    )


def skellam_epsilon_by_sum(*, l1: float, l2: float, releases: Mapping[float, int], delta: float) -> float:
    """ε at ``delta`` of sums, so many ``releases`` of each variance, by Rényi divergences: a lower bound.

    It is one on what an accountant can claim that adds up divergences of integer orders, as the plan's
    does. Raises what ``skellam_renyi_by_sum`` raises.

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), Proposition 12.
    """
    least = math.inf
    for order in _ORDERS:
        spent = sum(
            count * skellam_renyi_by_sum(l1=l1, l2=l2, variance=variance, order=order)
            for variance, count in releases.items()
        )
        if -math.expm1(-spent) <= delta**2:
            return 0.0  # the total variation is under δ (Bretagnolle and Huber 1979): ε = 0 may be claimed
        if spent > least + 2.0:
            break  # divergences grow with the order, and what is added is over ln ½ - ln 2 > -2
        added = math.log1p(-1.0 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        least = min(least, spent + added)
    return max(0.0, least)


def _changes(l1: float, l2: float) -> Iterator[tuple[int, int]]:
    """Steps and numbers of coordinates such that integers within both norms can make them."""
    whole = math.floor(l2)
    if whole >= 1:
        yield whole, 1
        # (l1 / l2)² coordinates bear a step of l2² / l1 each, with equality in both norms.
        step = max(1, math.floor(l2**2 / l1))
        yield step, max(1, math.floor(min(l1 / step, (l2 / step) ** 2, (l1 / l2) ** 2)))


def _divergence(shift: int, *, variance: float, order: int) -> float:
    """Of the noise moved by ``shift`` and the noise; the other way round it is the same, by symmetry.

    The integrand's peak lies between 0 and order · shift, and is nowhere narrower than a few tenths of
    σ: with 16 points a deviation, what is left out between them is below float64's rounding.
    """
    peak = float(order * shift)
    reach = 40.0 + _REACH * math.sqrt(math.hypot(peak, variance))
    stride = max(1, math.floor(math.sqrt(variance) / _STRIDE))
    first, last = -math.ceil(reach / stride), math.ceil((peak + reach) / stride)
    k: Floats = np.arange(first, last + 1, dtype=np.float64) * stride
    logs = order * _log_skellam(k - shift, variance) + (1 - order) * _log_skellam(k, variance)
    log_moment = float(np.logaddexp.reduce(logs)) + math.log(stride)
    return max(0.0, log_moment) / (order - 1)


def _log_skellam(k: Floats, variance: float) -> Floats:
    """ln(e^-v I_k(v)): the logarithm of the probability of ``k`` for noise of variance v.

    Source: Skellam 1946; Olver's expansion for large orders, DLMF 10.41.3, here in √(k² + v²) and without
    the cancellation of its textbook form.
    """
    size = np.hypot(k, variance)
    square = (k / size) ** 2
    series = (
        1.0
        + (3 - 5 * square) / (24 * size)
        + (81 - 462 * square + 385 * square**2) / (1152 * size**2)
        + (30375 - 369603 * square + 765765 * square**2 - 425425 * square**3) / (414720 * size**3)
    )
    large = k**2 / (size + variance) - k * np.arcsinh(k / variance)
    near = size < _LARGE
    with np.errstate(invalid="ignore"):
        large = large - 0.5 * np.log(2 * math.pi * size) + np.log(series)
    found: Floats = np.where(near, np.log(ive(np.abs(np.where(near, k, 0.0)), variance)), large)
    return found
