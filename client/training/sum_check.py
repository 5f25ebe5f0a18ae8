"""The privacy-unit check's second half: what one example does to the clipped sum and to a step."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.adaptive_norm import AdaptiveNorm
from client.training.gradients import Gradients, PerExampleGradients, losses
from client.training.optimizer import PrivateOptimizer
from client.training.step import add_batch, make_optimizer, take_step
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import NoiseSource
from protocol.job.training_section import TrainingSection
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel

# Sums of float32 in another order agree to about 1e-6 of a clipping norm.
_TOLERANCE = 1e-3
_TRAINING = TrainingSection()


def check_clipped_sum(adapted: AdaptedModel, gradients: Gradients, mechanism: Mechanism) -> None:
    """Leave each example out of the clipped sum in turn, and put another in its place.

    The sum without it is what all is measured from. Whatever comes in adds the clipping norm at most,
    so a replacement, which takes one out and puts one in, moves the sum by two at most. An example
    that is blank or not finite adds nothing. Raises PrivacyUnitError naming the layer.
    """
    bound = _bound(gradients, mechanism)

    def summed(rows: Gradients) -> Gradients:
        return _clipped_sum(adapted, rows, mechanism, bound)

    def require(first: Gradients, second: Gradients, limit: int, when: str) -> None:
        _require(first, second, norm=mechanism.norm, limit=limit, when=when)

    whole = summed(gradients)
    nothing = {name: torch.zeros_like(total) for name, total in whole.items()}
    require(summed(_rows(gradients, [])), nothing, 0, "nobody is drawn")
    everyone = range(len(next(iter(gradients.values()))))
    for index in everyone:
        rest = summed(_rows(gradients, [other for other in everyone if other != index]))
        alone = summed(_rows(gradients, [index]))
        both = {name: rest[name] + alone[name] for name in rest}
        require(whole, rest, 1, "an example is left out")
        require(whole, both, 0, "an example is clipped and summed apart from the others")
        opposite = summed(_replaced(gradients, index, factor=-1000.0))
        require(opposite, rest, 1, "an example's opposite comes in, a thousand times as long")
        require(opposite, whole, 2, "an example is replaced by its opposite")
        require(summed(_replaced(gradients, index, factor=0.0)), rest, 0, "a blank example comes in")
        for poison in (math.nan, math.inf):
            poisoned = summed(_replaced(gradients, index, poison=poison))
            require(poisoned, rest, 0, f"an example that is not finite ({poison}) comes in")


def check_steps(
    method: PerExampleGradients, examples: Examples, gradients: Gradients, mechanism: Mechanism
) -> None:
    """Take steps as training does: each releases the sum of its own batch and nothing else.

    ``gradients`` are those of ``examples``, row by row. All steps are one optimizer's, so that what
    one leaves behind shows in the next. Raises PrivacyUnitError naming the layer.
    """
    adapted, bound = method.adapted, _bound(gradients, mechanism)
    everyone = list(range(len(examples)))
    steps = {
        "all examples are drawn": [everyone],
        "nobody is drawn after others": [],
        "one example is drawn after nobody": [everyone[-1:]],
        "a batch is cut into physical batches": [[index] for index in everyone],
        "all examples are drawn again": [everyone],
    }
    # Before the steps: each of these sums takes a new optimizer, which clears what the last one left.
    drawn = {when: [index for batch in batches for index in batch] for when, batches in steps.items()}
    expected = {
        when: _clipped_sum(adapted, _rows(gradients, rows), mechanism, bound)
        for when, rows in drawn.items()
    }
    optimizer = silent_optimizer(adapted, mechanism, clipping_norm=bound)
    for when, batches in steps.items():
        physical = [examples.batch(np.array(batch)) for batch in batches]
        take_step(optimizer, method, physical, losses(adapted))
        released = released_sum(adapted, optimizer, bound=bound, drawn=len(drawn[when]))
        _require(released, expected[when], norm=mechanism.norm, limit=0, when=when)


def silent_optimizer(
    adapted: AdaptedModel,
    mechanism: Mechanism,
    *,
    clipping_norm: float,
    adaptive: AdaptiveNorm | None = None,
) -> PrivateOptimizer:
    """Training's own optimizer under a made-up plan, without noise, and with an adapter at rest.

    What it releases is then the clipped sum over the expected batch size, step after step for the same
    adapter.
    """
    plan = SampledPlan(
        mechanism=mechanism, clipping_norm=clipping_norm, sampling_rate=1.0, steps=1, delta=1e-5
    )
    optimizer = make_optimizer(adapted, _TRAINING, plan, adaptive=adaptive)
    optimizer.source = cast(NoiseSource, _Silence())  # a step draws nothing else
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


class _Silence:
    """A source of noise that has none, for made-up examples alone."""

    def discrete_gaussian(self, size: int, *, std: float) -> NDArray[np.int64]:  # noqa: ARG002
        return np.zeros(size, np.int64)

    def discrete_laplace(self, size: int, *, scale: int) -> NDArray[np.int64]:  # noqa: ARG002
        return np.zeros(size, np.int64)


def _bound(gradients: Gradients, mechanism: Mechanism) -> float:
    """A clipping norm that shortens the longer half of the gradients and may spare the others."""
    flat = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
    return max(0.9 * float(flat.norm(mechanism.norm, dim=1).median()), 1e-6)


def _rows(gradients: Gradients, indices: list[int]) -> Gradients:
    return {name: gradient[indices] for name, gradient in gradients.items()}


def _replaced(
    gradients: Gradients, index: int, *, factor: float = 1.0, poison: float | None = None
) -> Gradients:
    """The gradients, one example's times a factor; ``poison`` takes the place of one number of it."""
    replaced = {name: gradient.contiguous().clone() for name, gradient in gradients.items()}
    for gradient in replaced.values():
        gradient[index] *= factor
    if poison is not None:
        # In one tensor only: the example must lose its part in the others too.
        tensors = list(replaced.values())
        tensors[index % len(tensors)][index].view(-1)[0] = poison
    return replaced


def _clipped_sum(
    adapted: AdaptedModel, gradients: Gradients, mechanism: Mechanism, bound: float
) -> Gradients:
    """What a step of a new optimizer makes of per-example gradients, in clipping norms."""
    optimizer = silent_optimizer(adapted, mechanism, clipping_norm=bound)
    add_batch(optimizer, {name: gradient.clone() for name, gradient in gradients.items()}, last=True)
    return released_sum(adapted, optimizer, bound=bound, drawn=len(next(iter(gradients.values()))))


def released_sum(
    adapted: AdaptedModel, optimizer: PrivateOptimizer, *, bound: float, drawn: int
) -> Gradients:
    """What the step that was taken released, in clipping norms; nothing of it stays."""
    released = {}
    for name, parameter in adapted.trained.items():
        if parameter.grad is None:
            raise PrivacyUnitError(
                f"{name}: no step is taken for a batch of {drawn} examples; expected one for every batch, "
                "as the plan counts them"
            )
        # The plan's denominator is the expected batch size, whoever was drawn.
        released[name] = parameter.grad * (_TRAINING.batch_size / bound)
    optimizer.zero_grad(set_to_none=True)
    _check_forgotten(adapted)
    return released


def _check_forgotten(adapted: AdaptedModel) -> None:
    """Refuse what stays after a step: a parameter that the next batch does not use would add it again."""
    for name, parameter in adapted.trained.items():
        kept = [k for k in ("grad_sample", "summed_grad", "grad") if getattr(parameter, k) is not None]
        if kept:
            raise PrivacyUnitError(
                f"{name}: {', '.join(kept)} of one batch is still there after its step; expected nothing "
                "to be kept for the next"
            )


def _require(first: Gradients, second: Gradients, *, norm: int, limit: int, when: str) -> None:
    """Raise if two sums lie further apart than ``limit``, naming the tensor that differs most."""
    parts = {name: float((first[name] - second[name]).norm(norm)) for name in first}
    off = float(np.linalg.norm(list(parts.values()), norm))
    if not off <= limit + _TOLERANCE:
        worst = max(parts, key=lambda name: parts[name] if math.isfinite(parts[name]) else math.inf)
        raise PrivacyUnitError(
            f"{worst}: the clipped sum moves by {off:.3g} clipping norms when {when}; expected at most "
            f"{limit}"
        )
