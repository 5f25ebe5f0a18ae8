"""FlexLoRA: the mean of the products, and the best factors of the adapter's rank for it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from strategies.by_layer import ByLayer, Matrices
from strategies.factors import Factors


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

    The stacked factors are reduced by QR first, so that for a product of m by n from s sites of rank r the
    decomposition is of s·r by s·r, and none of m by n is formed; nor is an orthonormal factor, which would
    take most of the time: A comes from the small singular vectors, and B is the product along A.
    """
    sites, rank = len(factors.a), factors.a.shape[1]
    stacked_b, stacked_a = factors.stacked_b, factors.stacked_a / sites
    b_small, a_small = _triangle(stacked_b), _triangle(stacked_a.T)
    u, singular, _ = np.linalg.svd(b_small @ a_small.T, full_matrices=False)
    # What is shorter is lost in the largest one's rounding to float32.
    kept = min(rank, int((singular > singular[0] * 2.0**-26).sum()))
    # Aᵀ·Bᵀ·U = V·S: orthonormal but for rounding, which one more QR of so few takes away.
    right = np.linalg.qr(stacked_a.T @ (b_small.T @ u[:, :kept]) / singular[:kept])[0]
    b = np.zeros((len(stacked_b), rank))
    b[:, :kept] = stacked_b @ (stacked_a @ right)
    # The sign of each pair of vectors is free: fix it, so that platforms agree.
    signs = np.sign(b[np.abs(b).argmax(axis=0), np.arange(rank)][:kept])
    b[:, :kept] *= signs
    a = otherwise.astype(np.float64)
    a[:kept] = (right * signs).T
    return b, a


def _triangle(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of a QR decomposition, without Q."""
    found: Any = np.linalg.qr(stacked, mode="r")  # numpy's types know of both alone
    upper: NDArray[np.float64] = found
    return upper
