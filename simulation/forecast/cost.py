"""Time and memory of a simulated run, estimated from a few batches tried on this machine."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from client.training.gradients import losses
from client.training.round_examples import examples_of_round
from client.training.step import add_batch, make_optimizer
from privacy.accounting.phased_plan import phases_of
from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.rng import fresh_entropy, fresh_source
from protocol.job.draw import cohort_size
from simulation.simulated_federation import World
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes
from tasks.model.activation_store import MEMORY_LIMIT_BYTES
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """An estimate for sites that train in turn on this machine.

    ``seconds`` leaves out loading; ``memory_bytes`` is the process's peak, ``disk_bytes`` what is kept in
    temporary files. Memory of an accelerator is not in it.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Seconds: an example kept, trained on and evaluated, and a step's noise; bytes kept by size."""

    keep: float
    train: float
    evaluate: float
    step: float
    bytes_per_place: int


def estimate_effort(
    world: World, *, examples: Sequence[int], plans: Sequence[SampledPlan], clock: Clock
) -> Effort:
    """Try one physical batch and scale it to a run of sites with so many ``examples`` and these ``plans``.

    The batch is of the coordinator's own held-out examples: nothing of a site is used. ``clock`` gives
    seconds. The adapter that was loaded is lost.
    """
    sizes, shapes = world.held_out.sizes, _shapes(world)
    some = next(iter(phases_of(plans[0])), plans[0])
    # The largest first: that shows the most memory, and pays for what a second pass finds ready.
    _try_batch(world, some, shapes, clock, size=float(sizes.max()))
    measured = _try_batch(world, some, shapes, clock, size=float(sizes.mean()))
    training, held_out = world.job.training, len(world.held_out)
    keeps = measured.bytes_per_place > 0
    drawn = [
        size * -math.expm1(plan.steps * math.log1p(-min(plan.sampling_rate, 1 - 1e-12)))
        for size, plan in zip(examples, plans, strict=True)
    ]
    steps = cohort_size(world.job.federation.cohort, sites=len(examples)) * world.job.total_steps
    seconds = steps * (_rows_a_step(world, shapes) * measured.train + measured.step)
    seconds += (training.rounds + 1) * held_out * measured.evaluate
    seconds += (sum(drawn) + held_out) * measured.keep if keeps else 0.0
    example_bytes = measured.bytes_per_place * float(sizes.mean())
    stores = [size * example_bytes for size in (*examples, held_out)]
    in_memory = sum(size for size in stores if size <= MEMORY_LIMIT_BYTES)
    on_disk = sum(stores) - in_memory
    return Effort(
        seconds=seconds, memory_bytes=round(_peak_memory() + in_memory), disk_bytes=round(on_disk)
    )


def _try_batch(world: World, plan: SampledPlan, shapes: Shapes, clock: Clock, *, size: float) -> _Measured:
    trainer, adapted = world.trainer, world.adapted
    padded = int(shapes.public_sizes(np.array([math.ceil(size)]))[0])
    examples = _about_as_large(size, world.held_out, count=shapes.heights_at(padded)[-1])
    rows = np.arange(len(examples))
    activations = Activations(world.prefix, examples)
    kept = activations if activations.work else None
    adapted.load(world.initial_adapter)
    began = clock()
    if kept is not None:
        kept.fill(rows)
    filled = clock()
    adapted.peft.train()
    optimizer, loss = make_optimizer(adapted, world.job.training, plan), losses(adapted, kept)
    optimizer.source = fresh_source()
    width = max(padded, int(examples.sizes.max()))
    # With what the model writes into them, if it does.
    whole = examples_of_round(
        adapted, examples, adapter=world.initial_adapter, round_number=1, entropy=fresh_entropy
    )
    batch = whole.batch(rows, size=width)
    # As in training: all physical batches of a step but the last are clipped and added up only.
    add_batch(optimizer, trainer.gradients.backward(batch, loss), last=False)
    optimizer.zero_grad(set_to_none=True)
    trained = clock()
    gradients = trainer.gradients.backward(batch, loss)
    before_step = clock()
    add_batch(optimizer, gradients, last=True)
    optimizer.zero_grad(set_to_none=True)
    stepped = clock()
    _evaluate(adapted, examples.batch(rows, size=width), kept)
    return _Measured(
        keep=(filled - began) / len(rows),
        train=(trained - filled) / len(rows),
        evaluate=(clock() - stepped) / len(rows),
        step=stepped - before_step,
        bytes_per_place=_bytes_per_place(world, batch) if kept is not None else 0,
    )


def _shapes(world: World) -> Shapes:
    """As in training, found with kept activations if those work."""
    kept = Activations(world.prefix, world.held_out)
    return world.trainer.shapes(world.job.training, kept if kept.work else None)


def _rows_a_step(world: World, shapes: Shapes) -> float:
    """Examples and blank rows."""
    sizes, counts = np.unique(shapes.public_sizes(world.held_out.sizes), return_counts=True)
    shares = counts / counts.sum() * world.job.training.batch_size
    return sum(shapes.expected(share, int(size))[1] for size, share in zip(sizes, shares, strict=True))


def _about_as_large(size: float, examples: Examples, *, count: int) -> Examples:
    """``count`` examples of about this size, some of them several times if there are too few."""
    order = np.argsort(np.abs(examples.sizes - size), kind="stable")
    return examples.take(np.resize(order[:count], count))


def _evaluate(adapted: AdaptedModel, batch: Batch, kept: Activations | None) -> None:
    adapted.peft.eval()
    batch = batch.to(adapted.device.torch)
    with torch.no_grad(), kept.replay(batch) if kept else nullcontext(batch) as known:
        adapted.forward(known).correct.sum().item()


def _bytes_per_place(world: World, batch: Batch) -> int:
    """What the input of the first adapted layer takes for one unit of size."""
    hidden = world.prefix.compute(batch.to(world.adapted.device.torch))
    return int(hidden.shape[-1]) * hidden.dtype.itemsize


def _peak_memory() -> int:
    """The largest that this process has been, in bytes; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
