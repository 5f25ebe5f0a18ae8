"""Private training of an adapter at one site: Poisson batches, per-example gradients, noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks

from client.training.cancellation import Between, no_pause
from client.training.optimizer import PrivateOptimizer
from client.training.row_check import rows_are_apart
from privacy.accounting.plan import Plan
from privacy.errors import PrivacyUnitError, RunError
from privacy.mechanisms.rng import NoiseSource
from protocol.job.job import TrainingSection
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes
from tasks.model.adapted_model import AdaptedModel
from tasks.model.device import Device
from tasks.model.frozen_prefix import Activations

log = logging.getLogger("confide.training")

# Below the lowest adapter nothing needs a gradient, so the first hooked layer's input has none.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


class Trainer:
    """Trains whichever adapter is loaded into one resident model.

    The model's per-example gradients come from Opacus' hooks, which leave PEFT's methods in place.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted
        self._hooks = GradSampleHooks(adapted.peft, loss_reduction="sum")
        self._apart: dict[tuple[int, int, bool, Device], bool] = {}

    def train(
        self,
        adapter: NDArray[np.float32],
        examples: Examples,
        *,
        training: TrainingSection,
        plan: Plan,
        hidden: bool = False,
        round_number: int,
        entropy: Callable[[int, int], NoiseSource],
        activations: Activations | None,
        between: Between = no_pause,
    ) -> NDArray[np.float32]:
        """Take ``local_steps`` private steps from ``adapter``: the update, float32[d].

        ``entropy(round, step)`` gives each step its own source for sampling and noise; ``between`` is
        called before each, and what it raises ends the round. A blank example that is drawn contributes
        nothing, and so does one that the model fails on. With ``hidden``, the steps have no noise, and
        something after them hides the update: then nothing is said of it. Raises PrivacyUnitError if a step
        would not be what the plan accounts for, RunError if the adapter became NaN or, without a mechanism,
        a gradient did.
        """
        shapes = self.shapes(training, activations)
        self.adapted.load(adapter)
        self.adapted.peft.train()
        optimizer = self.optimizer(training, plan)
        for step in range(training.local_steps):
            between(step, training.local_steps)
            source = optimizer.source = entropy(round_number, step)
            if self.adapted.spec.adapter.dropout:
                torch.manual_seed(source.seed())
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(training, round_number, step)
            drawn = source.poisson_sample(len(examples), rate=plan.sampling_rate)
            indices = examples.without_blanks(drawn)
            if activations is not None:
                activations.fill(indices, shapes)  # whole batches of new ones, not their few in each
            batches = list(shapes.batches(examples, indices))
            self.accumulate(optimizer, batches, activations)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update = self.adapted.update_since(adapter)
        if not hidden:
            self._check_moved(update, plan, zeroed_examples=optimizer.zeroed_examples)
        return update

    def shapes(self, training: TrainingSection, activations: Activations | None) -> Shapes:
        """Shapes of physical batches in which an example's gradient is its own, to the last bit.

        Where this machine's arithmetic looks at a row's place or neighbours, every example is alone. That
        is tried once for each size that may occur, on made-up examples: which sizes do occur, and so
        whether one of them fails, is for nobody to know. The adapter that was loaded is lost.
        """
        shapes = Shapes.of(
            self.adapted.sizes.public,
            batch_size=training.batch_size,
            physical_batch_size=training.physical_batch_size,
        )
        alone = {size for size in shapes.sizes if not self._rows_are_apart(size, shapes.rows, activations)}
        return replace(shapes, alone=frozenset(alone))

    def _rows_are_apart(self, size: int, rows: int, activations: Activations | None) -> bool:
        if rows == 1:
            return True
        key = size, rows, activations is not None, self.adapted.device
        if key not in self._apart:
            self._apart[key] = rows_are_apart(self, size=size, rows=rows, activations=activations)
            if not self._apart[key]:
                unit = self.adapted.task.units.size
                log.warning(
                    "rounding depends on the batch at %d %s: each example alone, slower", size, unit
                )
        return self._apart[key]

    def optimizer(self, training: TrainingSection, plan: Plan) -> PrivateOptimizer:
        """A fresh optimizer over exactly the layout's trained tensors.

        Raises PrivacyUnitError if a parameter outside the layout is trainable: its gradient would be
        neither clipped nor noised.
        """
        parameters = list(self.adapted.trained.values())
        known = {id(parameter) for parameter in parameters}
        stray = [
            name
            for name, p in self.adapted.peft.named_parameters()
            if p.requires_grad and id(p) not in known
        ]
        if stray:
            raise PrivacyUnitError(
                f"trainable but not in the adapter's layout: {', '.join(stray[:4])}; "
                "their gradients would be neither clipped nor noised"
            )
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.SGD
        return PrivateOptimizer(
            kind(parameters, lr=training.learning_rate),
            plan=plan,
            expected_batch_size=training.batch_size,
        )

    def backward(self, batch: Batch, activations: Activations | None = None) -> None:
        """Fill ``grad_sample`` of every trained parameter: one gradient an example.

        Raises PrivacyUnitError if a parameter got none, or one for something else than an example.
        """
        batch = batch.to(self.adapted.device.torch)
        with activations.replay(batch) if activations else nullcontext():
            self.adapted.forward(batch).losses.sum().backward()
        for name, parameter in self.adapted.trained.items():
            gradients = parameter.grad_sample
            if gradients is None:
                raise PrivacyUnitError(
                    f"{name} got no per-example gradients: it took no part in the loss, or its layer "
                    "hides its activations. Choose other adapter.target_modules"
                )
            if isinstance(gradients, list) or len(gradients) != len(batch):
                rows = "several" if isinstance(gradients, list) else len(gradients)
                raise PrivacyUnitError(
                    f"{name} got gradients for {rows} rows in a batch of {len(batch)} examples: its "
                    "layer counts something else, such as tokens, as examples. "
                    "Choose other adapter.target_modules"
                )
            parameter.grad_sample = gradients[: len(batch.indices)]  # without the blank rows'

    def _fill(self, batch: Batch, activations: Activations | None) -> None:
        """As ``backward``, whatever the model does with a text: one that it fails on adds nothing.

        To stop would tell that such a text was drawn. When a batch fails, each of its examples is computed
        among blank rows, in the same shape: the gradients of the others are what they would have been.
        """
        try:
            self.backward(batch, activations)
            return
        except Exception:
            log.warning("the model fails on a batch: each of its examples is tried alone", exc_info=True)
        found = [self._alone(one, activations) for one in batch.apart()]
        for place, parameter in enumerate(self.adapted.trained.values()):
            parameter.grad_sample = torch.cat([gradients[place] for gradients in found])

    def _alone(self, batch: Batch, activations: Activations | None) -> list[torch.Tensor]:
        """The gradients of a batch's one example, [1, *shape] each; zero if the model fails on it."""
        self._forget()
        try:
            self.backward(batch, activations)
            return [parameter.grad_sample for parameter in self.adapted.trained.values()]
        except Exception as error:
            log.warning("the model fails on an example, which counts as blank: %s", type(error).__name__)
            return [
                parameter.new_zeros((1, *parameter.shape)) for parameter in self.adapted.trained.values()
            ]
        finally:
            self._forget()

    def _forget(self) -> None:
        """Drop what a pass that may have failed half-way left, in the hooks too: the next would find it."""
        for module in self.adapted.peft.modules():
            for left in ("activations", "max_batch_len"):
                module.__dict__.pop(left, None)
        for parameter in self.adapted.trained.values():
            parameter.grad = parameter.grad_sample = None
            parameter.__dict__.pop("_current_grad_sample", None)
            parameter._forward_counter = 0

    @contextmanager
    def without_hooks(self) -> Iterator[None]:
        """Within this block the model is plain PyTorch: no per-example gradients are made."""
        self._hooks.disable_hooks()
        try:
            yield
        finally:
            self._hooks.enable_hooks()

    def accumulate(
        self,
        optimizer: PrivateOptimizer,
        batches: list[Batch],
        activations: Activations | None,
    ) -> None:
        """Leave the last physical batch's gradients for ``optimizer.step``, add up those before."""
        if not batches:
            # A Poisson sample may be empty. The step is taken all the same, with noise alone:
            # skipping it would tell that nobody was drawn.
            for parameter in self.adapted.trained.values():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return
        for batch in batches[:-1]:
            self._fill(batch, activations)
            optimizer.signal_skip_step(do_skip=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._fill(batches[-1], activations)
        optimizer.signal_skip_step(do_skip=False)

    def _check_moved(self, update: NDArray[np.float32], plan: Plan, *, zeroed_examples: int) -> None:
        # With a mechanism, non-finite examples count as zero and no more is said of them: to stop
        # because of one would tell of it.
        lost = zeroed_examples if plan.mechanism.name == "none" else 0
        if lost or not np.isfinite(update).all():
            raise RunError(
                "the loss or the adapter became NaN or infinite: lower training.learning_rate; if "
                "that does not help, check the base model's weights"
            )
        if plan.mechanism.name != "none" and not update.any():
            raise PrivacyUnitError("no weight changed after noisy steps: the optimizer moves nothing")


def _learning_rate(training: TrainingSection, round_number: int, step: int) -> float:
    """The rate of a step: constant, or falling in a line to zero at the end of the run."""
    done = (round_number - 1) * training.local_steps + step
    share = 1.0 - done / training.total_steps if training.decay == "linear" else 1.0
    return training.learning_rate * share
