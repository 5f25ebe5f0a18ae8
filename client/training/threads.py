"""How many threads train fastest here: tried on made-up examples, before anything else is computed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from client.training.gradients import PerExampleGradients, losses
from protocol.job.job import Job
from protocol.processes.time_spent import Part, timed
from tasks.data.shapes import Shapes

log = logging.getLogger("confide.training")

# The first pass pays for what later ones find ready.
_PASSES = 3


@timed(Part.CHECKS)
def choose_threads(
    method: PerExampleGradients, job: Job, *, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Let torch use one thread or all, whichever takes less time for a batch: seconds, by threads tried.

    Nothing is tried where the job says how many, where an accelerator computes, or where noise is keyed:
    sums are of floats, whose rounding depends on threads, and a keyed run repeats bit for bit. To be called
    before ``Trainer.shapes``, which finds what rounding does with the threads that there are. A model that
    fails keeps the threads that there were: the privacy-unit check says why it fails.
    """
    everything = len(os.sched_getaffinity(0))
    device = method.adapted.device.torch
    if job.device.threads is not None or job.seeds.noise is not None or device.type != "cpu":
        return {}
    before, taken = torch.get_num_threads(), {}
    try:
        for threads in sorted({1, everything}):
            torch.set_num_threads(threads)
            taken[threads] = _seconds(method, job, clock)
    except Exception as error:  # a model's code raises whatever it likes
        log.warning("threads were not tried, the model fails: %s", type(error).__name__)
        torch.set_num_threads(before)
        return {}
    torch.set_num_threads(min(taken, key=taken.__getitem__))
    return taken


@timed(Part.CHECKS)
def seconds_a_batch(
    method: PerExampleGradients,
    job: Job,
    *,
    rows: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """What one thread takes for a batch of middling examples, a physical one or of so many ``rows``."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _seconds(method, job, clock, rows=rows)
    finally:
        torch.set_num_threads(before)


def _seconds(
    method: PerExampleGradients, job: Job, clock: Callable[[], float], *, rows: int | None = None
) -> float:
    adapted, training = method.adapted, job.training
    public = adapted.sizes.public
    shapes = Shapes.of(
        public, batch_size=training.batch_size, physical_batch_size=training.physical_batch_size
    )
    size, rows = public[len(public) // 2], rows or shapes.rows
    count = max(1, rows - 1) if method.batched else 1
    random = np.random.Generator(np.random.PCG64(0))
    examples = adapted.task.made_up(adapted, random, np.full(count, size, np.int64))
    batch = examples.batch(np.arange(count), size=size, rows=rows if method.batched else 1)
    was_training = adapted.peft.training
    adapted.peft.train()
    took = []
    try:
        for _ in range(_PASSES):
            began = clock()
            method.backward(batch, losses(adapted))
            took.append(clock() - began)
    finally:
        adapted.peft.train(was_training)
    return min(took)
