"""LoRA-FAIR: after A and B are averaged, B is corrected towards the mean of the products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy
from strategies.lora_pairs import Pair, b_name, pairs


class LoRAFAIR(Strategy):
    """A and B are averaged, and then B is moved so that B·A is nearer to the mean of the sites' products.

    ``penalty`` is the paper's λ: how dear it is to move B. Sums of A and of B do not tell the mean product,
    so that each site's update must be read.

    Source: Bian et al. 2024 (arXiv:2411.14961), section 4, with the squared distance for its S.
    """

    name: Literal["lora_fair"] = "lora_fair"
    penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.01
    paper: ClassVar[str] = "Bian et al. 2024, LoRA-FAIR (arXiv:2411.14961)"
    linear: ClassVar[bool] = False

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        mean = aggregate.mean(axis=0, dtype=np.float64).astype(np.float32)
        merged = super().merge(state, mean, layout, round_number)
        sites = [pairs(layout, layout.apply(state.adapter, update)) for update in aggregate]
        tensors = {name: tensor.copy() for name, tensor in layout.split(merged.adapter).items()}
        for layer in sites[0]:
            correction = _correction([site[layer] for site in sites], self.penalty)
            tensors[b_name(layout, layer)] += correction.astype(np.float32)
        return replace(merged, adapter=layout.join(tensors))


def _correction(sites: Sequence[Pair], penalty: float) -> NDArray[np.float64]:
    """ΔB, float64[m, r], that makes ‖Σp·B·A − (B̄ + ΔB)·Ā‖² + λ·‖ΔB‖² least; weights p are equal.

    It is E·Āᵀ·(Ā·Āᵀ + λ·I)⁻¹ for E = Σp·B·A − B̄·Ā = Σp·(B − B̄)·(A − Ā), which is not formed.
    """
    shares = np.full(len(sites), 1 / len(sites))
    mean = Pair.mean(sites, shares)
    missed = sum(
        (
            share * (site.b - mean.b) @ ((site.a - mean.a) @ mean.a.T)
            for share, site in zip(shares, sites, strict=True)
        ),
        start=np.zeros_like(mean.b),
    )
    gram = mean.a @ mean.a.T + penalty * np.eye(len(mean.a))
    found: NDArray[np.float64] = np.linalg.solve(gram, missed.T).T
    return found
