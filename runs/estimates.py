"""What a noisy histogram tells: counts, shares, quantiles, means, and how far noise may put them off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of a normal variable, this many standard deviations to either side leave out one in twenty.
SIDES = 1.96


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A ``value``, and the standard deviation that noise alone gives it."""

    value: float
    std: float

    @property
    def told(self) -> bool:
        """Whether it is apart from zero by more than three standard deviations."""
        return self.value > 3 * self.std


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """Where a share of the examples lies below: a ``value``, and ``low`` to ``high`` with 95 % confidence.

    Edges of bins are all that is known of these. An end is infinite where the histogram does not reach it,
    and the value where it lies beyond all edges.
    """

    share: float
    value: float
    low: float
    high: float


def total(counts: NDArray[np.float64], *, std: float) -> Estimate:
    """The sum of noisy counts, float64[bins], whose noise has a deviation of ``std`` each."""
    return Estimate(value=float(counts.sum()), std=std * math.sqrt(len(counts)))


def best_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates of one number, weighted by the inverse of their variances."""
    weights = np.array([one.std**-2 for one in estimates])
    values = np.array([one.value for one in estimates])
    return Estimate(value=float(weights @ values / weights.sum()), std=float(weights.sum() ** -0.5))


def share_of(part: Estimate, whole: Estimate) -> Estimate | None:
    """A part of a whole, in [0, 1] but for noise; None where the whole is not apart from zero.

    To first order, with the noise of both taken as independent.
    """
    if not whole.told:
        return None
    share = part.value / whole.value
    return Estimate(value=share, std=math.hypot(part.std, share * whole.std) / whole.value)


def quantile(
    counts: NDArray[np.float64], cuts: Sequence[float], share: float, *, std: float
) -> Quantile | None:
    """A quantile of a noisy histogram with a bin below the first of the cuts and one from the last on.

    ``counts`` is float64[cuts + 1], with noise of ``std`` each. The value is where the cumulative counts,
    made to rise by isotonic regression, reach their share of all, evenly within a bin. Its interval is of
    the edges at which the cumulative count, less its share of all, may still be zero: that difference has a
    deviation of std · √(j (1 − p)² + (B − j) p²) after j of B bins. None where all counts together are not
    apart from zero.
    """
    whole = total(counts, std=std)
    if not whole.told:
        return None
    before = np.arange(1, len(counts) + 1)
    above = np.cumsum(counts) - share * whole.value  # of each bin's upper edge
    off = SIDES * std * np.sqrt(before * (1 - share) ** 2 + (len(counts) - before) * share**2)
    upper = np.array([*cuts, math.inf])
    lower = np.array([-math.inf, *cuts])
    first = int(np.flatnonzero(above + off >= 0)[0])
    below = np.flatnonzero(above[:-1] - off[:-1] < 0)  # or it may be
    last = int(below[-1]) + 1 if len(below) else 0
    rising = rise(np.cumsum(counts))
    wanted = share * whole.value
    place = min(int(np.searchsorted(rising, wanted)), len(counts) - 1)
    if place == 0:
        value = -math.inf
    elif place == len(counts) - 1:
        value = math.inf
    else:
        height = rising[place] - rising[place - 1]
        within = min(max((wanted - rising[place - 1]) / height, 0.0), 1.0) if height > 0 else 1.0
        value = float(lower[place] + within * (upper[place] - lower[place]))
    return Quantile(share=share, value=value, low=float(lower[first]), high=float(upper[last]))


def mean(counts: NDArray[np.float64], cuts: Sequence[float], *, std: float) -> Estimate | None:
    """The mean of numbers that are cut off at the first and last of the cuts, each at its bin's middle.

    So it is off by half a bin's width at most, beside its noise, which is given to first order. None where
    the counts together are not apart from zero.
    """
    whole = total(counts, std=std)
    if not whole.told:
        return None
    edges = np.array(cuts, np.float64)
    middles = np.concatenate([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]])
    value = float(middles @ counts / whole.value)
    return Estimate(value=value, std=float(std * np.linalg.norm(middles - value) / whole.value))


def rise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest values, in least squares, none of which is under the one before: float64[n].

    By pooling adjacent violators (Ayer et al. 1955).
    """
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        level, size = value, 1
        while blocks and blocks[-1][0] > level:
            other, count = blocks.pop()
            level, size = (level * size + other * count) / (size + count), size + count
        blocks.append((level, size))
    return np.repeat([level for level, _ in blocks], [size for _, size in blocks])
