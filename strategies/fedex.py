"""FedEx-LoRA: the means of A and of B, and what their product lacks goes into the base."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy
from strategies.factors import Factors, each_layer, with_means


class FedEx(Strategy):
    """The residual takes mean(B·A) − mean(B)·mean(A), so that the merged product is the sites' mean.

    That is the mean of (B − mean(B))·(A − mean(A)): computed so, small differences of large products lose
    nothing. Source: Singhal et al. 2024 (arXiv:2410.09432), the residual error term.
    """

    name: Literal["fedex"] = "fedex"
    paper: ClassVar[str] = "Singhal et al. 2024, FedEx-LoRA (arXiv:2410.09432)"
    linear: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    residual: ClassVar[bool] = True

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        merged = with_means(state.adapter, aggregate, layout)
        tensors = layout.matrices(merged)
        for factors in each_layer(state.adapter, aggregate, layout):
            pair = factors.pair
            # By the means as they are kept, in float32: what their rounding moves is as small.
            off = Factors(pair=pair, a=factors.a - tensors[pair.a], b=factors.b - tensors[pair.b])
            tensors[pair.residual] += off.mean_product()
        return State(adapter=merged, memory=state.memory)
