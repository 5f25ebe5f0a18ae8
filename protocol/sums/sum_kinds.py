"""The ways to sum, by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.errors import JobError, PlanError
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.sums.ciphertexts_kind import Homomorphic
from protocol.sums.masks_kind import Masks
from protocol.sums.plain_kind import Plain
from protocol.sums.sum_kind import SumKind
from protocol.sums.update_encoding import plan_for_site

_KINDS: Mapping[str, SumKind] = {"masks": Masks(), "homomorphic": Homomorphic(), "none": Plain()}


def sum_kind(job: Job) -> SumKind:
    """The way in which a job's updates are summed."""
    return _KINDS[job.aggregation.kind]


def check_sums(manifest: Manifest) -> None:
    """Raises JobError, saying which key to change, for a manifest whose sums would not be safe."""
    sum_kind(manifest.job).check(manifest)


def check_encoding(manifest: Manifest, *, update_size: int) -> None:
    """Raises JobError where a job's modulus or noise cannot be, before a run is made of it."""
    job = manifest.job
    try:
        plan = plan_for_site(manifest, update_size=update_size) if job.privacy.hides_sites else None
        sum_kind(job).check_size(manifest, update_size=update_size, plan=plan)
    except PlanError as error:
        raise JobError(f"privacy, aggregation: {error}") from error
