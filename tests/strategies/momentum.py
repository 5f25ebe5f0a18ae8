"""A strategy of somebody else's, in one file: server momentum over FFA's averages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy


class Momentum(Strategy):
    """The mean update is added to a velocity, which moves the adapter and lasts into the next round."""

    name: Literal["momentum"] = "momentum"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    paper: ClassVar[str] = "Hsu et al. 2019, FedAvgM (arXiv:1909.06335)"
    exact: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        return ".lora_A." not in name

    def start(self, layout: AdapterLayout, adapter: NDArray[np.float32]) -> State:
        return State(adapter=adapter, memory={"velocity": np.zeros(layout.update_size, np.float32)})

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        velocity = np.float32(self.momentum) * state.memory["velocity"] + aggregate
        return State(adapter=layout.apply(state.adapter, velocity), memory={"velocity": velocity})
