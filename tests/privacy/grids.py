"""Grids for the tests of encodings, and sums as those find them who take the masks off."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privacy.secagg.encoding import Encoding, example_encoding, site_encoding
from privacy.secagg.ring import Ring

SEED = bytes(range(32))
EXAMPLE = {
    "bits": 32,
    "sites": 10,
    "dimension": 100,
    "signal_l2": 1.0,
    "noise_std": 0.1,
    "largest": 2.0,
    "rotation_seed": SEED,
}
SITE = {
    "bits": 32,
    "sites": 10,
    "dimension": 100,
    "clipping_norm": 1.0,
    "noise_multiplier": 1.0,
    "rotation_seed": SEED,
}


def example(**changed: object) -> Encoding:
    return example_encoding(**(EXAMPLE | changed))


def site(**changed: object) -> Encoding:
    return site_encoding(**(SITE | changed))


def plain(*, scale: float = 1024.0, dimension: int = 100, **changed: object) -> Encoding:
    return Encoding(ring=Ring(32), dimension=dimension, scale=scale, **changed)


def rounding_std(grid: Encoding, *, count: int) -> float:
    """What rounding puts on a coordinate of a mean of ``count`` updates: its deviation is at most this.

    In units of update: √count · ½ / scale / count, as one stochastic rounding has a variance of at most ¼,
    and the rotation back is orthonormal. Cutting, wrapping around and float32 are not in it.
    """
    return 0.5 / (grid.scale * math.sqrt(count))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def squares(integers: NDArray[np.int64]) -> int:
    """The squared L2 norm, exactly."""
    return sum(int(integer) ** 2 for integer in integers)


def summed(grid: Encoding, rows: list[NDArray[np.int64]]) -> NDArray:
    """The sum of words as whoever takes off the masks finds it."""
    total = np.zeros(grid.dimension, grid.ring.dtype)
    for row in rows:
        total += grid.words(row)
    return grid.ring.reduced(total)
