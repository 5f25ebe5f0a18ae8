"""What goes between a site's process and those that it has on other devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.optimizer import Clipping
from client.training.recipe import Recipe
from privacy.mechanisms.clipping import ClippedSum
from protocol.job.job import DeviceSection
from protocol.job.training_section import TrainingSection


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a process is for: which model, on which device."""

    recipe: Recipe
    device: DeviceSection


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a process says once it can be asked: the model's SHA-256, and the size of its adapter."""

    model_digest: str
    adapter_size: int


@dataclass(frozen=True, kw_only=True)
class StepPart:
    """What a device is asked for: the clipped sum of the examples at ``indices``, among those it has.

    ``adapter``, float32[adapter_size], is what the step begins with; ``seed`` is for dropout, if the job
    has any.
    """

    round_number: int
    training: TrainingSection
    adapter: NDArray[np.float32]
    indices: NDArray[np.int64]
    clipping: Clipping
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class PartSum:
    """A clipped sum on its way: all tensors one after another, int64[d], and what is counted.

    ``rests`` are those of ``ClippedSum``. It has no noise yet, and so is as private as the examples.
    """

    numbers: NDArray[np.int64]
    rests: Mapping[int, NDArray[np.int64]]
    zeroed: int
    within: int

    @classmethod
    def of(cls, clipped: ClippedSum) -> PartSum:
        """What to send of a sum."""
        flat = [tensor.flatten().cpu() for tensor in clipped.tensors]
        return cls(
            numbers=torch.cat(flat).numpy(),
            rests={number: rest.cpu().numpy() for number, rest in clipped.rests.items()},
            zeroed=clipped.zeroed,
            within=clipped.within,
        )

    def clipped_sum(self, clipping: Clipping, parameters: Sequence[torch.Tensor]) -> ClippedSum:
        """The sum of what was clipped so, with each parameter's tensor where its gradients are summed."""
        flat = torch.from_numpy(self.numbers).split([p.numel() for p in parameters])  # type: ignore[no-untyped-call]
        tensors = tuple(
            # Apple's GPUs have no float64, and sums are on the processor there.
            part.view(p.shape).to("cpu" if p.device.type == "mps" else p.device)
            for part, p in zip(flat, parameters, strict=True)
        )
        return ClippedSum(
            tensors=tensors,
            bound=clipping.bound,
            norm=clipping.norm,
            steps=clipping.steps,
            zeroed=self.zeroed,
            within=self.within,
            rests={
                number: torch.from_numpy(rest).to(tensors[number].device)
                for number, rest in self.rests.items()
            },
        )
