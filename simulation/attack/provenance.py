"""What an audit was made of: enough to make it again, and to see that it is of what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.job.job import Job
from protocol.job.job_file import job_digest
from runs.run_folder import RunFolder
from tasks.own_rows import read_own_rows
from tasks.registry import find_task


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The job as it was run, with every key; how many canaries were ``asked`` for, and their ``seed``.

    Digests are SHA-256 as hex: of the job file, of all its examples' own digests, sorted, of the base model
    and of the adapter's layout. ``began`` is in seconds since 1970.
    """

    job: Job
    asked: int
    seed: int
    job_digest: str
    data_digest: str
    model_digest: str
    layout_digest: str
    versions: Mapping[str, str]
    began: int


def trace(folder: RunFolder, *, asked: int, seed: int, began: int) -> Provenance:
    """The provenance of an audit whose run is in this folder. Reads the job's data once more."""
    manifest = folder.manifest
    job = manifest.job
    task = find_task(job.task)
    return Provenance(
        job=job,
        asked=asked,
        seed=seed,
        job_digest=job_digest(job),
        data_digest=_digest(task.digest(content) for content in read_own_rows(job).contents),
        model_digest=manifest.model_digest,
        layout_digest=manifest.layout_digest,
        versions=dict(folder.facts["versions"]),
        began=began,
    )


def _digest(digests: Iterable[bytes]) -> str:
    """SHA-256 over digests in their order of size: the order of the rows does not count."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
