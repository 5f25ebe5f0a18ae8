"""The models of simulated sites that train at ranks of their own."""

from __future__ import annotations

from dataclasses import dataclass

from client.training.gradient_check import choose_gradients
from client.training.training import Trainer
from protocol.job.job import Job
from protocol.job.ranks import job_at, rank_at
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.model.frozen_prefix import FrozenPrefix


@dataclass(frozen=True, kw_only=True)
class SiteModel:
    """What a simulated site trains with, and where its frozen layers end."""

    trainer: Trainer
    prefix: FrozenPrefix


class SmallerModels:
    """A model for each rank below the run's, loaded when the first site of that rank is there.

    ``whole`` is that of the run's rank. A base model carries one adapter, and so each rank has one.
    """

    def __init__(self, *, whole: SiteModel, labels: tuple[str, ...], device: Device) -> None:
        self._whole, self._labels, self._device = whole, labels, device
        self._made: dict[int, SiteModel] = {}

    def of(self, site: str, job: Job) -> SiteModel:
        """What a site of a job trains with. Raises ModelError if it cannot be loaded."""
        rank = rank_at(job, site)
        if rank == job.adapter.rank:
            return self._whole
        if rank not in self._made:
            own = job_at(job, site)
            base = load_base_model(own, labels=self._labels, device=self._device)
            adapted = AdaptedModel(base, job=own, device=self._device)
            self._made[rank] = SiteModel(
                trainer=Trainer(choose_gradients(adapted)), prefix=FrozenPrefix(adapted)
            )
        return self._made[rank]
