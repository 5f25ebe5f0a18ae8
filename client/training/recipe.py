"""What another process needs to make the model that a site trains."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.job.job import Job
from protocol.job.ranks import job_at
from protocol.messages.vector import from_bytes
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A job's model at a site, with its ``labels``; ``local`` is the job with models where they are there.

    ``start`` is the adapter that the run began with, float32[adapter_size] as it is sent, where the job
    compares with it.
    """

    job: Job
    local: Job
    labels: tuple[str, ...]
    site: str
    start: bytes | None = None

    def make(self, device: Device) -> AdaptedModel:
        """The model with its adapter, on a device. Raises ModelError and ProtocolError."""
        base = load_base_model(self.local, labels=self.labels, device=device)
        adapted = AdaptedModel(base, job=job_at(self.job, self.site), device=device)
        begin_with_sent(adapted, self.start)
        return adapted


def begin_with_sent(adapted: AdaptedModel, start: bytes | None) -> None:
    """Tell a model what its run began with, if it is to compare with that. Raises ProtocolError."""
    if start is not None:
        adapted.begin_with(from_bytes(start, size=adapted.layout.adapter_size))
