"""One private step: physical batches in, their clipped sum and its noise out, whatever the model does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.adaptive_norm import AdaptiveNorm
from client.training.correction import Correction
from client.training.gradients import Found, Gradients, Loss, PerExampleGradients
from client.training.optimizer import PrivateOptimizer
from client.training.sparse_rows import joined
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedSum
from protocol.job.tensor_rates import rate_factor
from protocol.job.training_section import TrainingSection
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel

log = logging.getLogger("confide.training")

_FACTOR = "confide_factor"  # in torch's groups of parameters: what their learning rate is multiplied by


def make_optimizer(
    adapted: AdaptedModel,
    training: TrainingSection,
    plan: SampledPlan,
    *,
    copies: Sequence[nn.Parameter] | None = None,
    drift: NDArray[np.float32] | None = None,
    adaptive: AdaptiveNorm | None = None,
) -> PrivateOptimizer:
    """A fresh optimizer over exactly the layout's trained tensors, or over ``copies`` of them.

    They are where the round begins: what pulls steps back pulls them there. ``drift``,
    float32[update_size], is added to each step's noisy gradient. ``adaptive`` is what the first step clips
    to, if not to the plan's own norm.

    Raises PrivacyUnitError if a parameter outside the layout is trainable: its gradient would be
    neither clipped nor noised.
    """
    parameters = list(adapted.trained.values())
    known = {id(parameter) for parameter in parameters}
    stray = [name for name, p in adapted.peft.named_parameters() if p.requires_grad and id(p) not in known]
    if stray:
        raise PrivacyUnitError(
            f"trainable but not in the adapter's layout: {', '.join(stray[:4])}; "
            "their gradients would be neither clipped nor noised"
        )
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.SGD
    groups = _by_rate(dict(zip(adapted.trained, copies or parameters, strict=True)), training)
    optimizer = PrivateOptimizer(
        kind(groups, lr=training.learning_rate),
        plan=plan,
        expected_batch_size=training.batch_size,
        adaptive=adaptive,
    )
    if training.proximal or drift is not None:
        parts = {} if drift is None else adapted.layout.split_update(drift)
        correction = Correction(
            optimizer.params,
            proximal=training.proximal,
            drift=[torch.from_numpy(parts[name]) if name in parts else None for name in adapted.trained],
        )
        optimizer.attach_step_hook(correction)
    return optimizer


def _by_rate(parameters: Mapping[str, nn.Parameter], training: TrainingSection) -> list[dict[str, Any]]:
    """torch's groups of parameters, in order: one for all, or one each where rates differ."""
    if not training.rates:
        return [{"params": list(parameters.values()), _FACTOR: 1.0}]
    return [
        {"params": [parameter], _FACTOR: rate_factor(training, name)}
        for name, parameter in parameters.items()
    ]


def set_rate(optimizer: PrivateOptimizer, rate: float) -> None:
    """Let the next step go at a learning rate, and tensors with a factor at so many times that."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_FACTOR]


def take_step(
    optimizer: PrivateOptimizer,
    method: PerExampleGradients,
    batches: Sequence[Batch],
    loss: Loss,
    *,
    elsewhere: Callable[[], Iterable[ClippedSum]] = tuple,
) -> None:
    """Clip and add up the examples of all physical batches, add the noise once, and move the adapter.

    ``elsewhere`` gives the clipped sums of the step's examples that are not in the batches: it is called
    once these are computed, and what it raises ends the step before there is noise.

    A Poisson sample may be empty. The step is taken all the same, with noise alone: skipping it would
    tell that nobody was drawn.
    """
    for batch in batches[:-1]:
        add_batch(optimizer, whatever_fails(method, batch, loss), last=False)
        optimizer.zero_grad(set_to_none=True)
    last = whatever_fails(method, batches[-1], loss) if batches else nobody(method.adapted)
    for clipped in elsewhere():
        optimizer.add(clipped)
    add_batch(optimizer, last, last=True)


def add_batch(optimizer: PrivateOptimizer, gradients: Found, *, last: bool) -> None:
    """Clip one physical batch and add it to the step's sum; with the ``last`` one the step is taken."""
    for parameter, of_examples in zip(optimizer.params, gradients.values(), strict=True):
        parameter.grad_sample = of_examples
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()


@timed(Part.GRADIENTS)
def whatever_fails(method: PerExampleGradients, batch: Batch, loss: Loss) -> Found:
    """A batch's gradients, whatever the model does with a text: one that it fails on adds nothing.

    To stop would tell that such a text was drawn. When a batch fails, each of its examples is computed
    among blank rows, in the same shape: the gradients of the others are what they would have been.
    """
    try:
        return method.backward(batch, loss)
    except Exception:
        log.warning("the model fails on a batch: each of its examples is tried alone", exc_info=True)
    found = [_alone(method, one, loss) for one in batch.apart()]
    return joined(found)


def _alone(method: PerExampleGradients, batch: Batch, loss: Loss) -> Found:
    """The gradients of a batch's one example, [1, *shape] each; zero if the model fails on it."""
    try:
        return method.backward(batch, loss)
    except Exception as error:
        log.warning("the model fails on an example, which counts as blank: %s", type(error).__name__)
        return nobody(method.adapted, rows=1)


def nobody(adapted: AdaptedModel, *, rows: int = 0) -> Gradients:
    """Gradients of so many blank examples."""
    return {name: p.new_zeros((rows, *p.shape)) for name, p in adapted.trained.items()}
