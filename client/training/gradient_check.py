"""Whether a batch's per-example gradients are those of single examples, and which method finds such."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from client.training.gradients import (
    Gradients,
    HookedGradients,
    OneByOne,
    PerExampleGradients,
    alone,
    losses,
)
from privacy.errors import ModelError, PrivacyUnitError
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.device import Device

log = logging.getLogger("confide.training")

# float32 gradients of two orders of summation agree to about 1e-6 of their norm; a wrong unit is
# off by its whole size.
_RELATIVE = 1e-3


def choose_gradients(adapted: AdaptedModel) -> PerExampleGradients:
    """Opacus' hooks if they find this model's gradients, or else one example at a time.

    They do not where a layer's rows are tokens, as in the shared experts of Qwen's mixtures: there the
    hooks would take each token for an example. It is tried on made-up examples, so the choice says nothing
    of anyone's data. Whether the model may be trained at all, ``check_privacy_unit`` says. The adapter that
    was loaded is lost.
    """
    hooked = HookedGradients(adapted)
    try:
        with comparable(adapted), as_unit_error():
            check_gradients(hooked, adapted.probe())
    except PrivacyUnitError as error:
        log.warning("each example is computed by itself, which takes longer: %s", error)
        hooked.close()
        return OneByOne(adapted)
    except ModelError:
        pass  # no method would help
    return hooked


def check_gradients(method: PerExampleGradients, examples: Examples) -> Gradients:
    """Compare batch after batch with autograd on each example alone; those of the last, all examples.

    Batches differ in order and size, so that what one leaves behind would show in the next. Raises
    PrivacyUnitError naming the layer, ModelError if a gradient is not finite. For a model that is
    ``comparable``.
    """
    adapted, everyone = method.adapted, np.arange(len(examples))
    loss = losses(adapted)
    references = [_reference(adapted, examples, index) for index in range(len(examples))]
    for indices in (everyone[::-1], everyone[:1], everyone):
        together = method.backward(examples.batch(indices), loss)
        for row, index in enumerate(indices):
            _compare(together, row, reference=references[index])
    return together


@contextmanager
def comparable(adapted: AdaptedModel) -> Iterator[None]:
    """Within this block two passes over one example give one gradient, and none that is zero."""
    precision = adapted.device
    adapted.device = Device(torch=precision.torch, bfloat16=False)
    try:
        random = np.random.default_rng(0).standard_normal(adapted.layout.adapter_size)
        adapted.load((0.05 * random).astype(np.float32))
        adapted.peft.train()
        for module in adapted.peft.modules():
            # Dropout draws another mask for each pass: no two passes could be compared with it on.
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        yield
    finally:
        adapted.peft.train()
        adapted.device = precision
        for parameter in adapted.trained.values():
            parameter.grad = None
            parameter.grad_sample = parameter.summed_grad = None  # type: ignore[attr-defined]  # Opacus'


@contextmanager
def as_unit_error() -> Iterator[None]:
    """What a model fails with on made-up examples is a PrivacyUnitError."""
    try:
        yield
    except (NotImplementedError, ValueError, AttributeError, RuntimeError) as error:
        raise PrivacyUnitError(
            f"per-example gradients failed on this model: {str(error).splitlines()[0]}"
        ) from error


def _reference(adapted: AdaptedModel, examples: Examples, index: int) -> Gradients:
    found = alone(adapted, examples.batch(np.array([index])), losses(adapted))
    return {
        name: torch.zeros_like(adapted.trained[name]) if gradient is None else gradient
        for name, gradient in found.items()
    }


def _compare(together: Gradients, row: int, *, reference: Gradients) -> None:
    size = max(float(torch.stack([g.norm() for g in reference.values()]).norm()), 1e-12)
    if not math.isfinite(size):
        raise ModelError(
            "the gradient of a single example is NaN or infinite: check the base model's weights"
        )
    for name, gradients in together.items():
        off = float((gradients[row] - reference[name]).norm()) / size
        if not off <= _RELATIVE:
            raise PrivacyUnitError(
                f"{name}: an example's gradient in a batch differs from its gradient alone by "
                f"{off:.2g} of its norm. The layer mixes examples, counts something else as one or "
                "remembers the batch before; choose other adapter.target_modules"
            )
