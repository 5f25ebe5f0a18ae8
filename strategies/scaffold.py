"""SCAFFOLD: each site corrects its steps by how its gradients differ from the mean of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State
from strategies.frozen_a import FrozenA

if TYPE_CHECKING:
    from protocol.job.job import Job

_MEAN = "mean"


class Scaffold(FrozenA):
    """FFA-LoRA with control variates: a site's steps go by g + c - cᵢ and not by its own g alone.

    cᵢ is the mean gradient of the site's last round, and c the mean of those: what sites sent, added up,
    over the sum of the round's learning rates. So the coordinator remembers the last mean, which goes out
    beside the adapter, and nothing more comes back than an update
    (``client.control_variate.uncorrected``).

    Privacy. cᵢ follows from steps that have their noise and were charged, and never leaves the site; c
    follows from sums that were released (``unit = "example"``). With ``unit = "site"`` cᵢ is as private as
    the data, and what a site sends is clipped as a whole after all corrections. Nothing is released beside
    the update either way. What it costs is accuracy: cᵢ has a round's noise in it, which the next round's
    steps follow away from each other.

    Source: Karimireddy et al. 2020 (arXiv:1910.06378), algorithm 1, option II, with η_g = 1.
    """

    name: Literal["scaffold"] = "scaffold"
    paper: ClassVar[str] = "Karimireddy et al. 2020, SCAFFOLD (arXiv:1910.06378)"
    corrects: ClassVar[bool] = True

    @classmethod
    def compresses(cls) -> bool:
        return False  # numbers that wait at a site are in no mean

    def allows(self, job: Job) -> None:
        wanted = f'with strategy.name="{self.name}"'
        if job.compression.kind != "none":
            raise ValueError(
                f'compression.kind: expected "none" {wanted}: numbers that wait at a site are in no mean'
            )
        super().allows(job)
        if job.training.optimizer != "sgd":
            raise ValueError(
                f'training.optimizer: expected "sgd" {wanted}, whose variates are mean gradients: another '
                "optimizer's steps are none"
            )
        if job.training.proximal:
            raise ValueError(
                f"training.proximal: expected 0 {wanted}: the pull would be taken for a gradient, and be "
                'added to every site; use strategy.name="ffa" with it'
            )
        if job.federation.cohort is not None:
            raise ValueError(
                f"federation.cohort: expected none {wanted}: a site that is drawn now and then would "
                "correct by gradients of long ago"
            )

    def beside(self, state: State) -> NDArray[np.float32] | None:
        return state.memory.get(_MEAN)

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        merged = super().merge(state, aggregate, layout, round_number)
        return State(adapter=merged.adapter, memory={_MEAN: aggregate})
