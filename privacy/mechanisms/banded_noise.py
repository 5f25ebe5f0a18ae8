"""Correlated noise: each step's takes some of earlier steps' noise back, so that most cancels in their sum.

With a lower triangular, banded Toeplitz matrix C, whose first column is (c₀ = 1, c₁, …, c_{b−1}), the noise
of all steps is n = C⁻¹z for independent z. Clipped sums x with this noise are C⁻¹(Cx + z): they tell no
more than Cx + z does, in which what one example adds at a step is c times as long.

All of it is exact, on integers. Sums are on a grid 2^12 times as coarse as the noise's, and the c are whole
numbers of 2^-12: so Cx is whole on the noise's grid, and z is drawn there as any other noise is. Step t's
noise is

    n_t = z_t − R_t,    R_t = round(Σ_j c_j n_{t−j}),

and what leaves is x̂_t = x_t + n_t. With n = x̂ − x for the steps before, and a rounding that moves along
with whole numbers, round(a − k) = round(a) − k, R_t is round(Σ_j c_j x̂_{t−j}) − Σ_j c_j x_{t−j}, so that

    x̂_t = (x_t + Σ_j c_j x_{t−j}) + z_t − round(Σ_j c_j x̂_{t−j}).

That is a function of what has left before and of (Cx)_t + z_t alone: nothing is lost to rounding, and the
discrete Gaussian z hides a shift by whole numbers as ``privacy.mechanisms.mechanism`` says.

Source: Choquette-Choo et al. 2023 (arXiv:2306.08153), for the mechanism on real numbers.
"""

from __future__ import annotations

import hmac
import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.mechanisms.clipping import STEPS, ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source

if TYPE_CHECKING:
    from torch import Tensor

# The c are whole numbers of 2^-12, and so many steps of the noise's grid are one of the sums'.
BITS = 12
ONE = 1 << BITS
COARSE_STEPS = STEPS / ONE
BANDS_MAX = 64
SEED_BYTES = 32


def column_norm(coefficients: Sequence[int]) -> float:
    """‖c‖, rounded up: how much longer than a clipped gradient what it adds to Cx may be."""
    squared = sum(one * one for one in coefficients)
    root = math.isqrt(squared)
    # Of whole numbers: either root is exact, or one more is beyond it. A float holds both exactly.
    close = math.nextafter(math.sqrt(squared), math.inf)
    return (float(root) if root * root == squared else close) / ONE


class BandedNoise:
    """The noise of a run's steps at one site, all of it made from a secret ``seed`` of the run.

    Guarantee: what leaves of steps 0 to T − 1, each with ``release`` under its own index, is a function of
    Cx + z, where z is Gaussian noise of ``multiplier · ‖c‖`` clipping norms, drawn exactly. That is so as
    long as an index is used for one release, ever: two with the same noise would differ by what they hide.
    Whoever calls counts them, durably.

    Steps that have a ``mark`` have noise that follows from it, too. Two releases of one index under marks
    of their own have noise of their own: they spend twice, and hide what they hide.

    ``coefficients`` are c in units of 2^-12. What is kept in memory is the noise of the last b − 1 steps; a
    step that does not follow the last one makes them again from the seed, from the first step on. Raises
    PlanError for coefficients that are none, and for noise that an int64 would not hold.
    """

    def __init__(self, seed: bytes, *, coefficients: Sequence[int], multiplier: float) -> None:
        check_coefficients(coefficients)
        if len(seed) != SEED_BYTES:
            raise PlanError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._back = np.array(coefficients[1:], np.int64)
        whole = math.nextafter(multiplier * column_norm(coefficients), math.inf)
        self._own = Mechanism(name="gaussian", multiplier=whole)
        # The first index, the one after the last, and the mark, the newest last.
        self._marks: list[tuple[int, int, bytes]] = []
        self._sizes: tuple[int, ...] = ()
        self._next = 0
        # The last steps' noise, the newest first.
        self._last: deque[NDArray[np.int64]] = deque(maxlen=len(self._back))

    @property
    def bands(self) -> int:
        return len(self._back) + 1

    def mark(self, first: int, steps: int, mark: bytes) -> None:
        """From now on the noise of these steps follows from ``mark`` as well."""
        if (first, first + steps, mark) not in self._marks:
            self._marks.append((first, first + steps, mark))
            if first < self._next:
                self._forget()

    def release(self, clipped: ClippedSum, index: int) -> tuple[Tensor, ...]:
        """Add step ``index``'s noise to its sum: float64 tensors, as ``ClippedSum.plus`` gives them.

        Raises PlanError for a sum on another grid.
        """
        if clipped.steps != COARSE_STEPS or clipped.norm != 2:
            raise PlanError(
                f"expected a sum on a grid of {COARSE_STEPS:g} steps, bounded in norm=2, got "
                f"steps={clipped.steps:g}, norm={clipped.norm}"
            )
        noise = self.at(index, clipped.sizes)
        parts = np.split(noise, np.cumsum(clipped.sizes)[:-1])
        return clipped.refined(ONE).plus(parts)

    def at(self, index: int, sizes: tuple[int, ...]) -> NDArray[np.int64]:
        """Step ``index``'s noise, int64[Σ sizes] on the fine grid: n_index of n = C⁻¹z."""
        if index < self._next or sizes != self._sizes:
            self._forget()
            self._sizes = sizes
        found = np.zeros(0, np.int64)
        while self._next <= index:
            found = self._drawn(self._next) - self._taken_back(sum(sizes))
            self._last.appendleft(found)
            self._next += 1
        return found

    def _drawn(self, index: int) -> NDArray[np.int64]:
        """z_index: each index, under each mark, has a key of its own, and so a stream of its own."""
        marks = (mark for first, end, mark in reversed(self._marks) if first <= index < end)
        told = b"confide banded noise" + index.to_bytes(8, "big") + next(marks, b"")
        key = hmac.digest(self._seed, told, "sha256")
        size = sum(self._sizes)
        return self._own.noise(size, steps=STEPS, source=ChaCha20Source(key))

    def _forget(self) -> None:
        self._last.clear()
        self._next = 0

    def _taken_back(self, size: int) -> NDArray[np.int64]:
        """round(Σ c_j n_{t−j}), halves upwards, without leaving int64 on the way."""
        whole, rest = np.zeros(size, np.int64), np.full(size, ONE >> 1, np.int64)
        for coefficient, noise in zip(self._back, self._last, strict=False):
            high = noise >> BITS  # n = high · 2^12 + low, and c · n / 2^12 = c · high + c · low / 2^12
            whole += coefficient * high
            rest += coefficient * (noise - (high << BITS))
        return whole + (rest >> BITS)


def check_coefficients(coefficients: Sequence[int]) -> None:
    """Raises PlanError unless these are 2^12, which stands for c₀ = 1, and others of no more, falling.

    Where they fall and are not negative, C⁻¹ stays small, however many steps there are.
    """
    falling = all(one >= other for one, other in pairwise(coefficients))
    if (
        not (2 <= len(coefficients) <= BANDS_MAX and coefficients[0] == ONE and falling)
        or coefficients[-1] < 0
    ):
        raise PlanError(
            f"expected 2 to {BANDS_MAX} coefficients from {ONE} down to 0 at least, got {coefficients}"
        )
