"""A strategy of somebody else's that reads each site's update: the median of each number."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy


class Middle(Strategy):
    """One site of three cannot move the adapter further than another one does."""

    name: Literal["middle"] = "middle"
    paper: ClassVar[str] = "Yin et al. 2018, coordinate-wise median (arXiv:1803.01498)"
    linear: ClassVar[bool] = False

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        middle = np.median(aggregate, axis=0).astype(np.float32)
        return replace(state, adapter=layout.apply(state.adapter, middle))
