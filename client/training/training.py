"""Private training of an adapter at one site: Poisson batches, per-example gradients, noise."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from client.correlated_steps import CorrelatedSteps
from client.training.adaptive_norm import AdaptiveNorm
from client.training.cancellation import Between, no_pause
from client.training.devices import Devices, OneDevice
from client.training.gradients import PerExampleGradients, losses
from client.training.optimizer import PrivateOptimizer
from client.training.round_examples import examples_of_round, write_answers
from client.training.row_check import UnequalWeights, heights_apart
from client.training.step import make_optimizer, set_rate, take_step
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError, RunError
from privacy.mechanisms.rng import Entropy
from protocol.job.training_section import TrainingSection
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes
from tasks.model.frozen_prefix import Activations

log = logging.getLogger("confide.training")


class Trainer:
    """Trains whichever adapter is loaded into the one model that ``gradients`` are found for.

    ``devices`` is where steps are computed, if not on the model's own device alone.
    """

    def __init__(self, gradients: PerExampleGradients, devices: Devices | None = None) -> None:
        self.adapted = gradients.adapted
        self.gradients = gradients
        self.devices = devices or OneDevice()
        self._apart: dict[tuple[object, ...], tuple[int, ...]] = {}

    def train(
        self,
        adapter: NDArray[np.float32],
        examples: Examples,
        *,
        training: TrainingSection,
        plan: SampledPlan,
        hidden: bool = False,
        round_number: int,
        entropy: Entropy,
        activations: Activations | None,
        between: Between = no_pause,
        drift: NDArray[np.float32] | None = None,
        correlated: CorrelatedSteps | None = None,
        adaptive: AdaptiveNorm | None = None,
    ) -> NDArray[np.float32]:
        """Take ``local_steps`` private steps from ``adapter``: what ``update`` says of them.

        ``entropy`` gives each step sources of its own for who is drawn, for dropout and for the noise;
        ``between`` is called before each, and before each answer that is written, and what it raises ends
        the round. A blank example that is drawn contributes nothing, and so does one that the model fails
        on. With ``hidden``, the steps have no noise, and something after them hides the update: then
        nothing is said of it. ``drift``, float32[update_size], is added to each step's noisy gradient;
        ``correlated`` is for a plan with bands, and ``adaptive`` is the norm to clip to first, where it is
        not the plan's. Raises
        PrivacyUnitError if a step would not be what the plan accounts for, RunError if the adapter became
        NaN or, without a mechanism, a gradient did, or if a device is lost.
        """
        self.devices.ready(examples)
        self.adapted.train_in(round_number)
        shapes = self.shapes(training, activations)
        self.adapted.load(adapter)
        self.adapted.peft.train()
        examples = examples_of_round(
            self.adapted, examples, adapter=adapter, round_number=round_number, entropy=entropy
        )
        optimizer = make_optimizer(self.adapted, training, plan, drift=drift, adaptive=adaptive)
        loss = losses(self.adapted, activations)
        for step in range(training.local_steps):
            between(step, training.local_steps)
            optimizer.source = entropy(round_number, step, "gradients")
            dropout = entropy(round_number, step, "dropout") if self.adapted.spec.adapter.dropout else None
            if dropout is not None:
                torch.manual_seed(dropout.seed())
            set_rate(optimizer, learning_rate(training, round_number, step))
            sampling = entropy(round_number, step, "sampling")
            drawn = plan.draw(sampling, len(examples))
            if correlated is not None:
                drawn = correlated.drawn_in(step, drawn)
                optimizer.correlated = correlated.release(step)
            drawn = examples.without_blanks(drawn)
            write_answers(examples, drawn, between, step=step, steps=training.local_steps)
            with self.devices.share(
                drawn,
                round_number=round_number,
                training=training,
                clipping=optimizer.clipping,
                dropout=dropout,
            ) as (indices, elsewhere):
                batches = self.batches(examples, indices, activations, shapes)
                take_step(optimizer, self.gradients, batches, loss, elsewhere=elsewhere)
            optimizer.zero_grad(set_to_none=True)
        return self.update(adapter, plan, optimizer, hidden=hidden)

    def batches(
        self,
        examples: Examples,
        indices: NDArray[np.int64],
        activations: Activations | None,
        shapes: Shapes,
    ) -> list[Batch]:
        """A step's physical batches; what the frozen layers make of their examples is kept then."""
        if activations is not None:
            with timed(Part.ACTIVATIONS):
                activations.fill(indices, shapes)  # whole batches of new ones, not their few in each
        with timed(Part.DATA):
            return list(shapes.batches(examples, indices))

    def update(
        self,
        adapter: NDArray[np.float32],
        plan: SampledPlan,
        optimizer: PrivateOptimizer,
        *,
        hidden: bool,
    ) -> NDArray[np.float32]:
        """What steps made of ``adapter``: float32[update_size + local_size], and what they clip to next.

        It is what a site sends of them, and after it the tensors that stay there, as they are now; where
        steps move the clipping norm, two numbers follow: that norm, and how many steps have moved it.
        """
        after = self.adapted.now()
        if not hidden:
            self._check_moved(after - adapter, plan, zeroed_examples=optimizer.zeroed_examples)
        norm = optimizer.adaptive
        parts = [self.adapted.update_since(adapter), self.adapted.layout.local_part(after)]
        return np.concatenate(parts if norm is None else [*parts, norm.numbers])

    def shapes(
        self, training: TrainingSection, activations: Activations | None, *, rows: int | None = None
    ) -> Shapes:
        """Shapes of physical batches in which an example's gradient is its own, to the last bit.

        ``rows`` is how tall they may get, which follows from the job if it is not given: batches with so
        many rows may be several sites', each row with its own site's weights.

        Where this machine's arithmetic looks at how tall a batch is, fewer heights are left, or one; where
        it looks at a row's place or neighbours, every example is alone. That is tried once for each size
        that may occur, on made-up examples: which sizes do occur, and so whether one of them fails, is for
        nobody to know. It is of what is trained in this round. The adapter that was loaded is lost.
        """
        public, method = self.adapted.sizes.public, self.gradients
        if rows is None:
            physical = training.physical_batch_size if method.batched else 1
            shapes = Shapes.of(public, batch_size=training.batch_size, physical_batch_size=physical)
        else:
            shapes, method = Shapes.up_to(rows, sizes=public), UnequalWeights(self.adapted)
        heights = {size: self._heights_apart(size, shapes, activations, method) for size in public}
        return replace(shapes, heights=heights)

    def _heights_apart(
        self, size: int, shapes: Shapes, activations: Activations | None, method: PerExampleGradients
    ) -> tuple[int, ...]:
        """Those of the shapes' heights at which rows are the same; else ``shapes.rows``; else one row."""
        heights = shapes.heights_at(size)
        if heights == (1,):
            return heights
        trained = tuple(self.adapted.trained)  # what is multiplied on the way back depends on it
        key = size, heights, activations is not None, type(method), self.adapted.device, trained
        if key not in self._apart:
            found = heights_apart(method, size=size, heights=heights, activations=activations)
            # Where there is but the tallest, many of its rows would be blank.
            if len(found) < 2 and heights[-1] != shapes.rows:
                found = heights_apart(method, size=size, heights=(shapes.rows,), activations=activations)
            self._apart[key] = found or (1,)
            if not found:
                unit = self.adapted.task.units.size
                log.warning(
                    "rounding depends on the batch at %d %s: each example alone, slower", size, unit
                )
        return self._apart[key]

    def _check_moved(self, moved: NDArray[np.float32], plan: SampledPlan, *, zeroed_examples: int) -> None:
        # With a mechanism, non-finite examples count as zero and no more is said of them: to stop
        # because of one would tell of it.
        lost = 0 if plan.protects else zeroed_examples
        if lost or not np.isfinite(moved).all():
            raise RunError(
                "the loss or the adapter became NaN or infinite: lower training.learning_rate; if "
                "that does not help, check the base model's weights"
            )
        if plan.protects and not moved.any():
            raise PrivacyUnitError("no weight changed after noisy steps: the optimizer moves nothing")


def learning_rate(training: TrainingSection, round_number: int, step: int) -> float:
    """The rate of a step: constant, or falling in a line to zero at the end of the rounds that are so."""
    done = training.rounds_before(round_number) * training.local_steps + step
    share = 1.0 - done / training.total_steps if training.decay == "linear" else 1.0
    return training.learning_rate * share
