"""The best of a run's rounds by the held-out loss, and when a run stops for want of a better one."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.job.job import Job
from runs.run_folder import RoundRecord


def best_round(records: Sequence[RoundRecord]) -> RoundRecord | None:
    """The round with the lowest held-out loss, the first of several; None before any has finished."""
    return min(records, key=lambda record: record.loss, default=None)


def has_stopped(job: Job, records: Sequence[RoundRecord]) -> bool:
    """Whether a run is over, since its last ``training.patience`` rounds had no lower loss than one before.

    It follows from the finished rounds alone: a run that is resumed stops where it would have stopped.
    """
    patience, best = job.training.patience, best_round(records)
    return patience is not None and best is not None and records[-1].round - best.round >= patience
