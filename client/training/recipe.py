"""What another process needs to make the model that a site trains."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.job.job import Job
from protocol.job.ranks import job_at
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A job's model at a site, with its ``labels``; ``source`` is where the site has what the job names."""

    job: Job
    source: str
    labels: tuple[str, ...]
    site: str

    def make(self, device: Device) -> AdaptedModel:
        """The model with its adapter, on a device. Raises ModelError."""
        there = self.job.model.model_copy(update={"source": self.source})
        local = self.job.model_copy(update={"model": there})
        base = load_base_model(local, labels=self.labels, device=device)
        return AdaptedModel(base, job=job_at(self.job, self.site), device=device)
