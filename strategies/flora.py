"""FLoRA: the sites' factors are stacked, and their product goes into the base."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout, Pair
from protocol.job.strategy import State, Strategy
from strategies.factors import Moved, add_mean_product, for_each, with_means


class FLoRA(Strategy):
    """[B₁ … Bₙ]·[A₁; …; Aₙ]/n is the mean of the products, with no cross terms; then A and B begin anew.

    B is zero, and A has orthonormal rows that are drawn from a public seed: the layout and the round. So
    each round trains in another row space. Source: Wang et al. 2024 (arXiv:2409.05976), stacking-based
    aggregation.
    """

    name: Literal["flora"] = "flora"
    paper: ClassVar[str] = "Wang et al. 2024, FLoRA (arXiv:2409.05976)"
    linear: ClassVar[bool] = False
    ranks_differ: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    basis_turns: ClassVar[bool] = True
    residual: ClassVar[bool] = True

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        merged = with_means(state.adapter, aggregate, layout, pairs=False)
        tensors, moved = layout.matrices(merged), Moved(aggregate, layout)
        generator = np.random.Generator(np.random.PCG64(_seed(layout, round_number)))
        drawn = {pair: generator.standard_normal(tensors[pair.a].shape[::-1]) for pair in layout.pairs}

        def merge_layer(pair: Pair) -> None:
            a, b = tensors[pair.a], tensors[pair.b]
            each_a, each_b = a + moved.of(pair.a, a.shape), b + moved.of(pair.b, b.shape)
            add_mean_product(tensors[pair.residual], each_a, each_b)
            # Rows of length one at right angles, drawn as those of the first round are.
            a[:], b[:] = np.linalg.qr(drawn[pair])[0].T, 0.0

        for_each(layout.pairs, merge_layer)
        return State(adapter=merged, memory=state.memory)


def _seed(layout: AdapterLayout, round_number: int) -> int:
    content = f"confide flora {layout.digest} {round_number}".encode()
    return int.from_bytes(hashlib.sha256(content).digest(), "little")
