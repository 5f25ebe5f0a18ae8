"""What rules have in common that need each site's factors, one layer at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy
from strategies.factors import Factors, Trained, for_each, with_means

# An adapter's tensors by name, each layer's factors as matrices.
Matrices = Mapping[str, NDArray[np.float32]]


class ByLayer(Strategy):
    """All tensors become the means of the sites' own, and then a rule says what each layer's are."""

    linear: ClassVar[bool] = False

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        merged = with_means(state.adapter, aggregate, layout)
        before, tensors = layout.matrices(state.adapter), layout.matrices(merged)
        trained = Trained(state.adapter, aggregate, layout)
        for_each(layout.pairs, lambda pair: self.merge_layer(trained.of(pair), before, tensors))
        return State(adapter=merged, memory=state.memory)

    @abstractmethod
    def merge_layer(self, factors: Factors, before: Matrices, merged: Matrices) -> None:
        """Write a layer's tensors into ``merged``, which has the means; ``before`` is the last round's.

        Several layers are merged at once.
        """
