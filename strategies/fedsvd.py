"""FedSVD: after each round the LoRA factors of one product are chosen anew, A with orthonormal rows."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State
from strategies.frozen_a import FrozenA


class FedSVD(FrozenA):
    """FFA-LoRA with pairs that are refactored after each round; their products stay.

    Source: Lee et al. 2025 (arXiv:2505.12805), section 3.
    """

    name: Literal["fedsvd"] = "fedsvd"
    paper: ClassVar[str] = "Lee et al. 2025, FedSVD (arXiv:2505.12805)"
    basis_turns: ClassVar[bool] = True

    def shrinks(self) -> bool:
        # The rows of A stay orthonormal, so that noise in B is turned and no longer.
        return True

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        merged = super().merge(state, aggregate, layout, round_number)
        return replace(merged, adapter=refactor(merged.adapter, layout))


def refactor(adapter: NDArray[np.float32], layout: AdapterLayout) -> NDArray[np.float32]:
    """Rewrite each pair B·A as (U·S)·Vᵀ with the product unchanged: float32[adapter_size].

    With A frozen and its rows orthonormal, the gradient of B is no longer than that of the product,
    so that one clipping norm fits every layer, and averaging B averages the product exactly. A
    pair whose B is zero keeps its A: the decomposition of zero would choose A at random.

    Source: Lee et al. 2025, FedSVD (arXiv:2505.12805), section 3; the thin decomposition here costs
    O((m + n)·r²) for a product of m by n and never forms it.
    """
    refactored = adapter.copy()
    tensors = layout.matrices(refactored)
    for pair in layout.pairs:
        b, a = tensors[pair.b].astype(np.float64), tensors[pair.a].astype(np.float64)
        if not b.any():
            continue
        left, b_small = np.linalg.qr(b)
        right, a_small = np.linalg.qr(a.T)
        u, singular, vt = np.linalg.svd(b_small @ a_small.T)
        # The sign of each pair of singular vectors is free: fix it, so that platforms agree.
        signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(singular))])
        tensors[pair.b][:] = (left @ u) * (singular * signs)
        tensors[pair.a][:] = (vt * signs[:, None]) @ right.T
    return refactored
