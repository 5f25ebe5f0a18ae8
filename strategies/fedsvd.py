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
    tensors = {name: tensor.copy() for name, tensor in layout.split(adapter).items()}
    for name_b in [name for name in tensors if ".lora_B." in name]:
        name_a = name_b.replace(".lora_B.", ".lora_A.")
        # On a convolution A has a kernel and B is one place wide: as matrices their product is the same.
        shape_b, shape_a = tensors[name_b].shape, tensors[name_a].shape
        b = tensors[name_b].astype(np.float64).reshape(shape_b[:2])
        a = tensors[name_a].astype(np.float64).reshape(shape_a[0], -1)
        if not b.any():
            continue
        left, b_small = np.linalg.qr(b)
        right, a_small = np.linalg.qr(a.T)
        u, singular, vt = np.linalg.svd(b_small @ a_small.T)
        # The sign of each pair of singular vectors is free: fix it, so that platforms agree.
        signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(singular))])
        tensors[name_b] = ((left @ u) * (singular * signs)).astype(np.float32).reshape(shape_b)
        tensors[name_a] = ((vt * signs[:, None]) @ right.T).astype(np.float32).reshape(shape_a)
    return layout.join(tensors)
