"""What a mix of sources goes with, and the rate that each source is drawn at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from privacy.errors import PlanError

if TYPE_CHECKING:
    from protocol.job.job import Job


def check_mix(job: Job) -> None:
    """Raises ValueError that names the key to change, for a job whose sources cannot be mixed."""
    if job.privacy.correlated:
        raise ValueError(
            f'privacy.noise_correlation: expected "none" with data.mix, got '
            f'"{job.privacy.noise_correlation}": its groups, from which steps draw in turn, are of '
            "examples that are all drawn at one rate"
        )
    if job.phase:
        raise ValueError(
            f"phase: expected none with data.mix, got {len(job.phase)}: each source has one rate, planned "
            "for rounds that draw alike"
        )
    if getattr(job.federation.partition, "column", None) is not None:
        raise ValueError(
            'federation.partition: expected "iid" or { dirichlet = 0.5 } with data.mix: a column of one '
            "source says nothing of the others"
        )


def source_rates(job: Job, counts: Sequence[int]) -> tuple[float, ...]:
    """At what rate a step draws each source's examples: share · batch_size / count, at most 1.

    ``counts`` are a site's examples, source by source. Raises PlanError for a source with fewer examples
    than its share of a batch.
    """
    rates = []
    for alias, share, count in zip(job.data.aliases, job.data.shares, counts, strict=True):
        expected = share * job.training.batch_size
        if count < expected:
            raise PlanError(
                f"data.mix: expected at least {math.ceil(expected)} examples of {alias!r} at the site, its "
                f"share of training.batch_size={job.training.batch_size}, got {count}: lower its share or "
                "the batch, or give the site more of them"
            )
        rates.append(expected / count)
    return tuple(rates)


def planned_examples(job: Job, counts: Sequence[int]) -> int:
    """So many examples of one source would all be drawn at the mix's largest rate, or just above it.

    A plan for so many is a plan for all of the mix. Raises PlanError as ``source_rates`` does.
    """
    return math.floor(job.training.batch_size / max(source_rates(job, counts)))
