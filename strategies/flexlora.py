"""FlexLoRA: the mean of the products, and the best factors of the adapter's rank for it."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.errors import RunError
from strategies.by_layer import ByLayer, Matrices
from strategies.factors import Factors

_SHORTEST = 2.0**-20  # of the largest singular value: what is shorter is rounding


class FlexLoRA(ByLayer):
    """After each round the pair is the mean product's truncated SVD: B = U·S, A = Vᵀ with orthonormal rows.

    No pair of the rank is nearer to the mean product (Eckart and Young 1936); what lies beyond the rank is
    lost. Source: Bai et al. 2024 (arXiv:2402.11505), redistribution by SVD.
    """

    name: Literal["flexlora"] = "flexlora"
    paper: ClassVar[str] = "Bai et al. 2024, FlexLoRA (arXiv:2402.11505)"
    ranks_differ: ClassVar[bool] = True
    basis_turns: ClassVar[bool] = True

    def merge_layer(self, factors: Factors, before: Matrices, merged: Matrices) -> None:
        pair = factors.pair
        merged[pair.b][:], merged[pair.a][:] = best_pair(factors, otherwise=before[pair.a])


def best_pair(
    factors: Factors, *, otherwise: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best B, float64[out, rank], and A, float64[rank, in], for the mean of the sites' products.

    The largest directions come first. Of a product of lower rank, the rows of A that it does not need are
    those of ``otherwise``, float32[rank, in], with a B of zero: so they can still learn.

    The stacks B [out, k] and A [k, in], of k = sites · rank, are never multiplied out: with A·Aᵀ = L·Lᵀ,
    the product's squared singular values are the eigenvalues of Lᵀ·BᵀB·L, [k, k], and the right singular
    vectors are Aᵀ·L⁻ᵀ times its eigenvectors. Of these only the largest are sought. Squares halve the
    digits of float64, which are then as many as float32 has: what is a millionth of the largest is lost.
    """
    from scipy.linalg import eigh, solve_triangular  # type: ignore[import-untyped]

    rank, b_stack, a_stack = factors.a.shape[1], factors.stacked_b, factors.stacked_a / len(factors.a)
    if len(a_stack) > a_stack.shape[1]:  # more directions than there are columns
        b_stack, a_stack = b_stack @ a_stack, np.eye(a_stack.shape[1])
    lower = _lower(a_stack @ a_stack.T)
    squares = lower.T @ (b_stack.T @ b_stack) @ lower
    size = len(squares)
    vectors = eigh(squares, subset_by_index=(max(size - rank, 0), size - 1))[1][:, ::-1]
    # Orthonormal but for rounding, which one more QR of so few takes away.
    right = np.linalg.qr(a_stack.T @ solve_triangular(lower, vectors, trans="T", lower=True))[0]
    left = b_stack @ (a_stack @ right)
    lengths = np.linalg.norm(left, axis=0)
    kept = int((lengths > lengths[0] * _SHORTEST).sum())
    # The sign of each pair of vectors is free: fix it, so that platforms agree.
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])[:kept]
    b, a = np.zeros((len(left), rank)), otherwise.astype(np.float64)
    b[:, :kept], a[:kept] = left[:, :kept] * signs, (right[:, :kept] * signs).T
    return b, a


def _lower(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """L, lower triangular: L·Lᵀ is a Gram matrix and a shift, as its rounding may make it indefinite.

    Source: Fukaya et al. 2020, shifted Cholesky QR (arXiv:1809.11085), section 3, for the shift.
    """
    size = len(gram)
    shift = size * np.finfo(np.float64).eps * np.trace(gram) or 1.0
    for power in range(8):
        with suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(gram + 16.0**power * shift * np.eye(size)).astype(np.float64)
    raise RunError("a layer's updates cannot be decomposed: lower training.learning_rate")
