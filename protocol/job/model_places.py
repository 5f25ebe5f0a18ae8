"""The files of public models that a job names beside its own: where they are, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.job.data_section import MODEL_FILES
from protocol.job.job import Job


def with_files(job: Job, places: Mapping[str, str] | None) -> Job:
    """The job with models' files at these places, by their keys in ``[data]``; as it says without."""
    return job if not places else job.model_copy(update={"data": job.data.model_copy(update=dict(places))})


def named_models(job: Job) -> str:
    """The models that a job names, as a sentence has them: ``model.source='drawn' with data.trees='x'``."""
    own = job.data.model_extra or {}
    named = {"model.source": job.model.source}
    named |= {f"data.{key}": own[key] for key in MODEL_FILES if own.get(key)}
    return " with ".join(f"{key}={place!r}" for key, place in named.items())
