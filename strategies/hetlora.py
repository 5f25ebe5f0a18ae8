"""HetLoRA: sites of different ranks, padded with zeros and weighed by how much their products hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy
from strategies.factors import Factors, Trained, with_means

if TYPE_CHECKING:
    from protocol.job.job import Job


class HetLoRA(Strategy):
    """A and B are averaged, each for itself, with weights by the Frobenius norm of each site's products.

    The norm is over all layers together; other tensors have equal weights. The published rule also lets
    each site drop ranks by itself while it trains, which would tell of its data and is left out. Source:
    Cho et al. 2024 (arXiv:2401.06432), sparsity-weighted aggregation.
    """

    name: Literal["hetlora"] = "hetlora"
    paper: ClassVar[str] = "Cho et al. 2024, HetLoRA (arXiv:2401.06432)"
    linear: ClassVar[bool] = False
    ranks_differ: ClassVar[bool] = True

    def allows(self, job: Job) -> None:
        super().allows(job)
        if job.privacy.protects:
            raise ValueError(
                'strategy.name: "hetlora" weighs sites by the norm of what they send, which follows from '
                "their data and, with noise, from the noise: weights of a private run are public. "
                'Expected privacy.mechanism="none", or another strategy, such as "flexlora"'
            )

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        merged = with_means(state.adapter, aggregate, layout)
        tensors = layout.matrices(merged)
        trained = Trained(state.adapter, aggregate, layout)
        # Twice through the layers: all factors at once, in float64, would be as large as two more rounds.
        weights = _weights(trained.of(pair) for pair in layout.pairs)
        for factors in map(trained.of, layout.pairs):
            tensors[factors.pair.a][:] = np.tensordot(weights, factors.a, axes=1)
            tensors[factors.pair.b][:] = np.tensordot(weights, factors.b, axes=1)
        return State(adapter=merged, memory=state.memory)


def _weights(layers: Iterator[Factors]) -> NDArray[np.float64]:
    """Each site's weight, float64[sites], of sum one; equal ones where all products are zero."""
    squares = sum(
        # ‖B·A‖² is the sum of the entries of BᵀB times those of A·Aᵀ: no product is formed.
        np.einsum("sij,sij->s", _gram(factors.b.transpose(0, 2, 1)), _gram(factors.a))
        for factors in layers
    )
    norms = np.sqrt(np.maximum(squares, 0.0))
    total = norms.sum()
    return norms / total if total > 0 else np.full(len(norms), 1.0 / len(norms))


def _gram(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products of each site's rows with one another: float64[sites, rank, rank]."""
    found: NDArray[np.float64] = rows @ rows.transpose(0, 2, 1)
    return found
