"""A run's base model, as whoever reads the run loads it again."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.errors import UserError
from protocol.job.manifest import Manifest
from protocol.job.model_places import named_models, with_files
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import choose_device


def load_run_base(
    manifest: Manifest, *, source: str | None = None, files: Mapping[str, str] | None = None
) -> BaseModel:
    """The base model that a run was on, from ``source`` if it is not where the job says.

    ``files`` are the places of models' files that are not there either, by their keys in ``[data]``. Raises
    UserError if it is not the run's own, ModelError if it cannot be loaded.
    """
    job = with_files(manifest.job, files)
    if source is not None:
        job = job.model_copy(update={"model": job.model.model_copy(update={"source": source})})
    base = load_base_model(job, labels=manifest.labels, device=choose_device(job.device))
    check_run_base(manifest, base, files=files)
    return base


def check_run_base(manifest: Manifest, base: BaseModel, *, files: Mapping[str, str] | None = None) -> None:
    """Raises UserError for another base model than a run was on; ``files`` is as in ``load_run_base``."""
    if base.digest != manifest.model_digest:
        raise UserError(
            f"{named_models(with_files(manifest.job, files))} is not the model of this run: expected "
            f"SHA-256 {manifest.model_digest[:16]}…, got {base.digest[:16]}…"
        )
