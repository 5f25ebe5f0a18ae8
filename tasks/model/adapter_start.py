"""What a layer's A and B are before the first round, as matrices in float64."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ModelError

Matrix: TypeAlias = NDArray[np.float64]

# Of the iteration that finds singular vectors: passes, and how many more than are asked for are sought.
_PASSES, _BESIDE = 16, 8
# What rounding in float64, 1e-16, becomes when it is divided by these stays below float32's.
_CLOSE, _DEPENDENT = 1e-7, 1e-6


def orthonormal_rows(rank: int, columns: int, generator: np.random.Generator) -> Matrix:
    """A drawn at random, [rank, columns], its rows orthonormal. Needs ``rank`` <= ``columns``."""
    found: Matrix = np.linalg.qr(generator.standard_normal((columns, rank)))[0].T
    return found


def singular_factors(weight: Matrix, rank: int) -> tuple[Matrix, Matrix, Matrix]:
    """The largest singular values of a weight, [m, n]: U [m, rank], S [rank] and Vᵀ [rank, n].

    By subspace iteration from a fixed draw, in float64: as good as a whole decomposition, at a share of
    its cost. Signs are fixed: the largest entry of each column of U is positive.

    Source: Halko, Martinsson and Tropp 2011 (arXiv:0909.4061), algorithm 4.4.
    """
    width = min(rank + _BESIDE, *weight.shape)
    draw = np.random.Generator(np.random.PCG64(0)).standard_normal((weight.shape[1], width))
    basis, _ = np.linalg.qr(weight @ draw)
    for _ in range(_PASSES):
        basis, _ = np.linalg.qr(weight @ np.linalg.qr(weight.T @ basis)[0])
    inner, values, right = np.linalg.svd(basis.T @ weight, full_matrices=False)
    left = (basis @ inner)[:, :rank]
    signs = np.where(left[np.abs(left).argmax(axis=0), np.arange(rank)] < 0, -1.0, 1.0)
    return left * signs, values[:rank], right[:rank] * signs[:, None]


def pissa(weight: Matrix, rank: int, scale: float, layer: str) -> tuple[Matrix, Matrix]:
    """A and B whose product, times ``scale``, is the best approximation of a weight at this rank.

    Raises ModelError where two at this rank are as good: which of them would follow from rounding. Source:
    Meng et al. 2024 (arXiv:2404.02948), equations 2 to 4.
    """
    left, values, right = singular_factors(weight, min(rank + 1, *weight.shape))
    least = _CLOSE * values[0]
    if len(values) > rank and values[rank] > least and values[rank - 1] - values[rank] <= least:
        raise ModelError(
            f'adapter.init="pissa": the weight of {layer} has equal singular values at rank {rank}, so '
            "that what is taken of it would follow from rounding: choose another rank"
        )
    root = np.sqrt(values[:rank] / scale)
    return root[:, None] * right[:rank], left[:, :rank] * root


def olora(weight: Matrix, rank: int, layer: str) -> tuple[Matrix, Matrix]:
    """A and B of a weight's QR: B is the orthonormal basis of its first columns, and A the weight in it.

    Raises ModelError where these columns depend on one another: the basis would follow from rounding.
    Source: Büyükakyüz 2024 (arXiv:2406.01775), algorithm 1.
    """
    basis, triangle = np.linalg.qr(weight[:, :rank])
    sizes = np.abs(np.diag(triangle))
    if sizes.min() <= _DEPENDENT * max(sizes.max(), 1e-300):
        raise ModelError(
            f'adapter.init="olora": the first {rank} columns of the weight of {layer} depend on one '
            'another, so that their basis would follow from rounding: use "pissa", or a lower rank'
        )
    basis = basis * np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return basis.T @ weight, basis
