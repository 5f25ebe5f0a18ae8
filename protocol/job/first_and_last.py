"""What a first adapter that was made elsewhere goes with, and what an average of the last ones does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.job.job import Job


def check_warm_start(job: Job) -> None:
    """Raises ValueError that names the key to change, for a job that needs pairs of its own to begin."""
    if job.training.warm_start is None:
        return
    if job.adapter.changes_base:
        raise ValueError(
            f'adapter.init: expected "orthonormal" with training.warm_start, got "{job.adapter.init}", '
            "whose pairs begin as a part of the base model's weights"
        )
    if job.adapter.ranks is not None:
        raise ValueError(
            "adapter.ranks: expected none with training.warm_start: a site of a lower rank would get some "
            "directions of a pair that has them in no order"
        )
    if any(name.partition(".")[0] == "experts" for name in job.adapter.target_modules):
        raise ValueError(
            "adapter.target_modules: expected no experts with training.warm_start: a PEFT folder has the "
            "pairs of all experts in one, under names of its own"
        )
    if job.strategy.cored:
        raise ValueError(
            f'strategy.name: "{job.strategy.name}" trains a core between A and B, which no PEFT folder '
            'has, and so goes with no training.warm_start: use "ffa"'
        )


def check_average(job: Job) -> None:
    """Raises ValueError for an average of adapters whose products would be something else."""
    if job.training.average != "none" and not job.strategy.averages():
        raise ValueError(
            f'training.average: expected "none" with strategy.name="{job.strategy.name}": the mean of '
            'several rounds\' A and B is not the mean of their products B·A; use "ffa", "fedsb" or '
            '"head"'
        )
