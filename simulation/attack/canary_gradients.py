"""Gradients with canaries among them, and what an attacker that knows all other examples subtracts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.gradients import Found, Gradients, Loss, PerExampleGradients
from client.training.sparse_rows import dense
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import RunError
from simulation.attack.canaries import OVERLONG, Canaries
from tasks.data.examples import Batch


@dataclass(kw_only=True)
class Contributed:
    """What one site's steps of a round add up to along the canaries' coordinates, but for the noise.

    A step's sum counts with its learning rate over the expected batch size, which is what it moves weights
    by. ``signal`` is that of each canary, were it present: float64[m]. ``others`` is that of all other
    examples, clipped: float64[m]. ``draws`` counts the steps that each canary was drawn in: int64[m].
    ``weights`` are the steps', one a step.
    """

    plan: SampledPlan
    signal: NDArray[np.float64]
    others: NDArray[np.float64]
    draws: NDArray[np.int64]
    weights: list[float] = field(default_factory=list)

    @property
    def unit(self) -> float:
        """How far a canary that is drawn once moves its coordinate, in the mean over the steps."""
        return self.plan.clipping_norm * float(np.mean(self.weights))

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in a coordinate of the round's update, as it is planned."""
        return self.plan.noise_std * float(np.linalg.norm(self.weights))


class CanaryGradients:
    """Finds gradients as another method does; within a round, those of canaries are put in their places.

    The gradient of one that is present is ``OVERLONG`` clipping norms along its coordinate, that of another
    is zero: everything from clipping on treats them as any example's. ``planted`` is False at the other
    sites, which have no canaries and whose examples are known to the attacker all the same.
    """

    def __init__(self, method: PerExampleGradients, canaries: Canaries, *, planted: bool) -> None:
        self.adapted, self.batched = method.adapted, method.batched
        self._method, self._canaries, self._planted = method, canaries, planted
        self._round: Contributed | None = None
        self._weight = 0.0
        self._broken: Exception | None = None
        self.seconds = 0.0  # of the processor's time, that canaries have taken

    def begin(self, plan: SampledPlan) -> Contributed:
        """A round begins: what it adds up to is in what is returned."""
        size = len(self._canaries)
        self._round = Contributed(
            plan=plan, signal=np.zeros(size), others=np.zeros(size), draws=np.zeros(size, np.int64)
        )
        return self._round

    def step(self, weight: float) -> None:
        """A step begins, whose sum moves the adapter by this ``weight``."""
        self._weight = weight
        if self._round is not None:
            self._round.weights.append(weight)

    def end(self) -> None:
        """The round is over: gradients are a model's own again. Raises RunError if canaries failed."""
        self._round = None
        if self._broken is not None:
            raise RunError(f"canaries could not be placed: {self._broken!r}") from self._broken

    def backward(self, batch: Batch, loss: Loss) -> Found:
        as_found = self._method.backward(batch, loss)
        if self._round is None:
            return as_found
        start = time.process_time()
        found = dense(as_found)  # a canary may step along a coordinate that its batch does not reach
        numbers = np.array([self._canaries.numbers.get(int(i), -1) for i in batch.indices], np.int64)
        if not self._planted:
            numbers[:] = -1
        try:
            self._count(self._round, found, numbers)
            return self._with_canaries(found, numbers, self._round.plan.clipping_norm)
        except Exception as error:
            self._broken = error  # training takes what raises for a model's fault, and goes on
            raise
        finally:
            self.seconds += time.process_time() - start

    def _count(self, into: Contributed, found: Gradients, numbers: NDArray[np.int64]) -> None:
        drawn = numbers[numbers >= 0]
        into.signal[drawn] += self._weight * into.plan.clipping_norm
        into.draws[drawn] += 1
        own = torch.from_numpy(numbers < 0)
        rows = {name: tensor[own.to(tensor.device)].flatten(1) for name, tensor in found.items()}
        shares = clipping_shares(rows, into.plan)
        for name, tensor in rows.items():
            ours = self._canaries.tensors[name]
            places = torch.from_numpy(self._canaries.offsets[ours]).to(tensor.device)
            kept = torch.nan_to_num(exact(tensor[:, places])) * shares[:, None]
            into.others[ours] += self._weight * kept.sum(0).cpu().numpy()

    def _with_canaries(self, found: Gradients, numbers: NDArray[np.int64], bound: float) -> Gradients:
        rows = np.flatnonzero(numbers >= 0)
        if not len(rows):
            return found
        placed = {}
        for name, tensor in found.items():
            changed = tensor.clone(memory_format=torch.contiguous_format)
            changed[torch.from_numpy(rows)] = 0.0
            here = np.isin(numbers, self._canaries.tensors[name]) & self._is_present(numbers)
            chosen = np.flatnonzero(here)
            flat = changed.view(len(numbers), -1)
            offsets = torch.from_numpy(self._canaries.offsets[numbers[chosen]])
            flat[torch.from_numpy(chosen), offsets] = OVERLONG * bound
            placed[name] = changed
        return placed

    def _is_present(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (numbers >= 0) & self._canaries.present[np.maximum(numbers, 0)]


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """In float64: on the processor if it is on one of Apple's GPUs, which have none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def clipping_shares(rows: Mapping[str, torch.Tensor], plan: SampledPlan) -> torch.Tensor:
    """What clipping leaves of each example, by tensors [n, …]: float64[n]; 0 for one that is not finite."""
    norm = plan.mechanism.norm
    # One tensor at a time: of all together, float64 would be a copy as large as the gradients twice.
    lengths = [exact(tensor).norm(p=norm, dim=1) for tensor in rows.values()]
    length = torch.stack(lengths).norm(p=norm, dim=0)
    shares = (plan.clipping_norm / length.clamp(min=1e-300)).clamp(max=1.0)
    return torch.where(length.isfinite(), shares, torch.zeros_like(shares))
