"""FedEx-LoRA: the means of A and of B, and what their product lacks goes into the base."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout, Pair
from protocol.job.strategy import State, Strategy
from strategies.factors import Moved, add_mean_product, for_each, with_means


class FedEx(Strategy):
    """The residual takes mean(B·A) − mean(B)·mean(A), so that the merged product is the sites' mean.

    That is the mean of (B − mean(B))·(A − mean(A)), where what all sites began with is in neither factor:
    computed so, small differences of large products lose nothing. Source: Singhal et al. 2024
    (arXiv:2410.09432), the residual error term.
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
        tensors, moved = layout.matrices(merged), Moved(aggregate, layout)

        def merge_layer(pair: Pair) -> None:
            a, b = (moved.of(name, tensors[name].shape) for name in (pair.a, pair.b))
            add_mean_product(tensors[pair.residual], _less_mean(a), _less_mean(b))

        for_each(layout.pairs, merge_layer)
        return State(adapter=merged, memory=state.memory)


def _less_mean(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the sites' factors are off their mean, float32[sites, rows, columns]."""
    mean: NDArray[np.float32] = factors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return factors - mean
