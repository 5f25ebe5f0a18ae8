"""How many workers pay for themselves: each loads the libraries and the model again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import psutil

from client.training.threads import seconds_a_batch
from privacy.errors import UserError
from protocol.job.draw import cohort_size
from simulation.simulated_federation import World

# A worker is at work after some ten seconds; what is estimated here may be twice what it takes.
_WORTH_SECONDS = 30.0
# Beside what is loaded, some 20,000 texts that go through frozen layers again.
_WORTH_COMPARED = 90.0


def check_workers(workers: int | None, *, engine: str) -> None:
    """Raises UserError for workers that there cannot be."""
    if workers is not None and engine != "inprocess":
        raise UserError("--workers is for --engine inprocess: Ray has workers of its own")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}")


def workers_that_pay(
    world: World,
    *,
    compared: bool = False,
    measure: Callable[[World], float] | None = None,
    cores: int | None = None,
    memory: int | None = None,
) -> int:
    """One an idle core, or fewer where memory or sites are; 1 if the run is short, or on an accelerator.

    ``measure`` gives the seconds of a physical batch on one thread, which is tried by default; ``cores``
    and ``memory``, in bytes, are what is idle and free here. A run that is ``compared`` must gain more by
    them: its baselines find in this process what frozen layers made, and workers would begin anew.
    """
    job = world.job
    cores = _idle_cores() if cores is None else cores
    memory = psutil.virtual_memory().available if memory is None else memory
    fit = memory // psutil.Process().memory_info().rss  # each is as large as this one
    room = min(cores // (job.device.threads or 1), len(world.site_names), fit)
    if room < 2 or world.device.torch.type != "cpu":
        return 1
    batch = (measure or _one_batch)(world)
    largest = max(phase.training.batch_size for phase in job.phases)
    batches = math.ceil(largest / job.training.physical_batch_size)
    cohort = cohort_size(job.federation.cohort, sites=len(world.site_names))
    alone = batch * batches * job.total_steps * cohort
    return room if alone - alone / room > (_WORTH_COMPARED if compared else _WORTH_SECONDS) else 1


def _one_batch(world: World) -> float:
    known = world.seconds_a_batch.get(1)
    return seconds_a_batch(world.trainer.gradients, world.job) if known is None else known


def _idle_cores() -> int:
    """The cores that nothing else keeps busy; of the load this process is one itself."""
    busy = max(0.0, os.getloadavg()[0] - 1)
    return max(1, len(os.sched_getaffinity(0)) - round(busy))
