"""The privacy loss of many steps from that of one, in time and memory that are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# The probability that is cut off on either side of all steps' losses.
_CUT_OFF = 1e-15
# Slopes that Chernoff's bound is tried at, over the width of one step's losses. The best one is near
# 100/√steps for losses like a normal variable's, and any is valid.
_SLOPES = np.geomspace(1e-3, 1e3, 25)

# Up to here e^ε and e^-ε are float64's.
_LARGEST = 700.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Losses:
    """One step's privacy loss on a ``grid`` in nats: ``masses`` float64[n] of ``grid · (first + i)``.

    ``infinite`` is the probability of an infinite loss. It stands for a pair of distributions that is at
    least as far apart as the step's own: what is composed of it is an upper bound.
    """

    grid: float
    first: int
    masses: NDArray[np.float64]
    infinite: float

    def window(self, steps: int) -> tuple[int, int]:
        """The least and the largest sum of ``steps`` losses, on the grid, but for 1e-15 on either side."""
        low = -self._furthest(steps, sign=-1)
        return low, max(low, self._furthest(steps, sign=1))

    def epsilon(self, window: tuple[int, int], *, steps: int, delta: float) -> float:
        """ε at ``delta`` of ``steps`` steps whose losses are in ``window``; infinite if δ is too small.

        Source: Koskela et al. 2020 (arXiv:1906.03049), Algorithm 1, with Chernoff's bound for the window.
        """
        return epsilon_of_many([(self, steps)], window, delta=delta)

    def folded(self, size: int) -> NDArray[np.float64]:
        """The masses around a circle of so many grid points, 0 first: float64[size]."""
        around = (self.first + np.arange(len(self.masses))) % size
        return np.bincount(around, self.masses, minlength=size).astype(np.float64, copy=False)

    def _furthest(self, steps: int, *, sign: int) -> int:
        """How far the sum of ``steps`` losses reaches to one side, in grid points, but for ``_CUT_OFF``."""
        values, logs, slopes = self._logs
        extreme = float((sign * values).max()) * steps
        # ln of the moment generating function, at each slope.
        moments = np.array([_log_sum(logs + slope * sign * values) for slope in slopes])
        likely = float(((steps * moments - math.log(_CUT_OFF)) / slopes).min())
        return math.ceil(min(extreme, likely))

    @cached_property
    def _logs(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Grid points that have a mass, its logarithm, and the slopes for them, per grid point."""
        some = np.flatnonzero(self.masses > 0.0)
        values = (self.first + some).astype(np.float64)
        return values, np.log(self.masses[some]), _SLOPES / (np.ptp(values) + 1.0)


def joint_window(parts: Sequence[tuple[Losses, int]]) -> tuple[int, int]:
    """The window of all these steps together, so many of each.

    A sum of all losses is outside it only where one part's is outside its own.
    """
    windows = [losses.window(count) for losses, count in parts]
    return sum(low for low, _ in windows), sum(high for _, high in windows)


def epsilon_of_many(parts: Sequence[tuple[Losses, int]], window: tuple[int, int], *, delta: float) -> float:
    """ε at ``delta`` of so many steps of each part, whose losses are in ``window``, all on one grid.

    Infinite if δ is too small. It takes a few arrays of the window's length a part, whatever the counts.

    Source: Koskela et al. 2020 (arXiv:1906.03049), Algorithm 1, and section 6 for steps that differ.
    """
    low, high = window
    size = 1 << (high - low).bit_length()
    at = np.arange(low, low + size)
    spectra = [np.fft.rfft(losses.folded(size)) for losses, _ in parts]
    powers = [spectrum**count for spectrum, (_, count) in zip(spectra, parts, strict=True)]
    composed = np.fft.irfft(math.prod(powers), size)[at % size]
    # What lies outside the window comes back in at its other end: from below that adds to δ, from above it
    # hides what is given back here. So is what rounding adds up to: a transform's numbers are off by 2^-53
    # for each of its levels, in the norm of what it transforms, and powers and products of them by as much
    # times their derivative.
    rounding = 0.0
    for number, (losses, count) in enumerate(parts):
        off = 2.0**-53 * math.log2(size + 1) * float(np.linalg.norm(losses.masses))
        others = math.prod(powers[:number] + powers[number + 1 :], start=np.ones(1))
        slope = np.abs(spectra[number]) ** (count - 1) * np.abs(others)
        rounding += off * count * math.sqrt(2.0) * float(np.linalg.norm(slope))
    finite = sum(
        count * math.log1p(-losses.infinite) if losses.infinite < 1.0 else -math.inf
        for losses, count in parts
    )
    return _epsilon(
        parts[0][0].grid * at.astype(np.float64),
        np.maximum(composed, 0.0),
        infinite=-math.expm1(finite) + len(parts) * _CUT_OFF + rounding,
        delta=delta,
    )


def most_rounding(points: int, *, steps: int) -> float:
    """The most that rounding adds to δ over so many steps in a window of so many points.

    It is ``Losses.epsilon``'s where both norms are as large as probabilities let them be.
    """
    return 2.0**-53 * math.log2(points + 1) * steps * math.sqrt(2.0) * math.sqrt(points / 2 + 1)


def _log_sum(logs: NDArray[np.float64]) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).sum()))


def _epsilon(
    losses: NDArray[np.float64], masses: NDArray[np.float64], *, infinite: float, delta: float
) -> float:
    """The least ε >= 0 at which the hockey-stick divergence is ``delta`` at most; losses are ascending."""
    if infinite >= delta:
        return math.inf
    # Between two losses, delta(ε) = above - e^ε · weighted, of the masses beyond both. Where e^ε leaves
    # float64, what is taken off is left out: that makes delta no smaller.
    above = infinite + np.cumsum(masses[::-1])[::-1]
    weighted = np.cumsum((masses * np.exp(-losses))[::-1])[::-1]
    scaled = np.exp(np.minimum(losses, _LARGEST)) * weighted
    exceeding = np.flatnonzero(above - np.where(losses <= _LARGEST, scaled, 0.0) > delta)
    after = int(exceeding[-1]) + 1 if len(exceeding) else 0
    if after == 0 and above[0] <= delta:
        return 0.0
    if losses[after] > _LARGEST:
        return float(losses[after])
    return max(0.0, math.log((float(above[after]) - delta) / float(weighted[after])))
