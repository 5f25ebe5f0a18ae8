"""FlexLoRA: the mean of the products, and the best factors of the adapter's rank for it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy
from strategies.factors import Factors, each_layer, with_means


class FlexLoRA(Strategy):
    """After each round the pair is the mean product's truncated SVD: B = U·S, A = Vᵀ with orthonormal rows.

    No pair of the rank is nearer to the mean product (Eckart and Young 1936); what lies beyond the rank is
    lost. Source: Bai et al. 2024 (arXiv:2402.11505), redistribution by SVD.
    """

    name: Literal["flexlora"] = "flexlora"
    paper: ClassVar[str] = "Bai et al. 2024, FlexLoRA (arXiv:2402.11505)"
    linear: ClassVar[bool] = False
    ranks_differ: ClassVar[bool] = True
    basis_turns: ClassVar[bool] = True

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        merged = with_means(state.adapter, aggregate, layout)
        tensors, before = layout.matrices(merged), layout.matrices(state.adapter)
        for factors in each_layer(state.adapter, aggregate, layout):
            pair = factors.pair
            tensors[pair.b][:], tensors[pair.a][:] = best_pair(factors, otherwise=before[pair.a])
        return State(adapter=merged, memory=state.memory)


def best_pair(
    factors: Factors, *, otherwise: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best B, float64[out, rank], and A, float64[rank, in], for the mean of the sites' products.

    The largest directions come first. Of a product of lower rank, the rows of A that it does not need are
    those of ``otherwise``, float32[rank, in], with a B of zero: so they can still learn.

    The stacked factors are reduced by QR first, so that for a product of m by n from s sites of rank r the
    decomposition is of s·r by s·r, and none of m by n is formed.
    """
    sites, rank = len(factors.a), factors.a.shape[1]
    left, b_small = np.linalg.qr(factors.stacked_b)
    right, a_small = np.linalg.qr(factors.stacked_a.T / sites)
    u, singular, vt = np.linalg.svd(b_small @ a_small.T, full_matrices=False)
    # Beyond float64's rounding of the largest there is no direction, but noise.
    kept = min(rank, int((singular > singular[0] * 1e-13).sum()))
    u, singular, vt = u[:, :kept], singular[:kept], vt[:kept]
    # The sign of each pair of singular vectors is free: fix it, so that platforms agree.
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(kept)])
    b = np.zeros((len(left), rank))
    b[:, :kept] = (left @ u) * (singular * signs)
    a = otherwise.astype(np.float64)
    a[:kept] = (vt * signs[:, None]) @ right.T
    return b, a
