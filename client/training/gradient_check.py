"""Whether a batch's per-example gradients are those of single examples, and which method finds such."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

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
from client.training.sparse_rows import dense
from client.training.stacked_gradients import StackedGradients
from privacy.errors import ConfideError, ModelError, PrivacyUnitError
from protocol.plain_text import first_line
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.expert_weights import of_all_experts

log = logging.getLogger("confide.training")

# float32 gradients of two orders of summation agree to about 1e-6 of their norm; a wrong unit is
# off by its whole size.
_RELATIVE = 1e-3
_SHOWN = 8  # names in a message


@timed(Part.CHECKS)
def choose_gradients(adapted: AdaptedModel) -> PerExampleGradients:
    """The fastest method that finds this model's gradients: stacked weights, Opacus' hooks, or one by one.

    Neither of the first two does where a layer's rows are tokens, as in the shared experts of Qwen's
    mixtures: they would take each token for an example. It is tried on made-up examples, so the choice says
    nothing of anyone's data. Whether the model may be trained at all, ``check_privacy_unit`` says. The
    adapter that was loaded is lost.
    """
    for kind in (StackedGradients, HookedGradients):
        method: PerExampleGradients | None = None
        try:
            with as_unit_error():
                method = kind(adapted)
            for number in adapted.spec.trained_rounds.kinds:
                adapted.train_in(number)
                with comparable(adapted), as_unit_error():
                    check_gradients(method, adapted.probe())
        except PrivacyUnitError as error:
            log.info("%s do not serve: %s", kind.__name__, error)
            if isinstance(method, HookedGradients):
                method.close()
            if kind is HookedGradients:
                log.warning("each example is computed by itself, which takes longer: %s", error)
        except ModelError:
            return method or OneByOne(adapted)  # no method would help
        else:
            return method
    return OneByOne(adapted)


def check_gradients(method: PerExampleGradients, examples: Examples) -> Gradients:
    """Compare batch after batch with autograd on each example alone; those of the last, all examples.

    Batches differ in order and size, so that what one leaves behind would show in the next. Raises
    PrivacyUnitError naming the layer, ModelError if a gradient is not finite, or if an example's depends
    on how far it is padded. For a model that is ``comparable``.
    """
    adapted, everyone = method.adapted, np.arange(len(examples))
    loss = losses(adapted)
    references = _references(adapted, examples)
    for indices in (everyone[::-1], everyone[:1], everyone):
        batch = examples.batch(indices)
        together = dense(method.backward(batch, loss))
        for row, index in enumerate(indices):
            try:
                _compare(together, row, reference=references[index])
            except PrivacyUnitError:
                padded = alone(adapted, examples.batch(indices[row : row + 1], size=batch.size), loss)
                _refuse_padding(adapted, together, row, reference=_whole(adapted, padded))
                raise
    return together


@contextmanager
def comparable(adapted: AdaptedModel) -> Iterator[None]:
    """Within this block two passes over one example give one gradient, and none that is zero."""
    precision = adapted.device
    adapted.device = replace(precision, bfloat16=False)
    try:
        adapted.load(adapted.some_adapter(0))
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
    except ConfideError:
        raise
    except Exception as error:  # a model's code, PEFT's and Opacus' raise whatever they like
        raise PrivacyUnitError(
            f"per-example gradients failed on this model: {first_line(error)}. Choose other "
            "adapter.target_modules"
        ) from error


@contextmanager
def as_model_error(adapted: AdaptedModel, batch: Batch) -> Iterator[None]:
    """What a model fails with on a made-up example, whatever the method, is a ModelError."""
    try:
        yield
    except ConfideError:
        raise
    except Exception as error:  # a model's code raises whatever it likes
        units = adapted.task.units
        raise ModelError(
            f"model.source={adapted.spec.model.source!r}: the model fails on a made-up {units.example} of "
            f"{batch.size} {units.size}: {first_line(error)}. Choose another model or, if it is only too "
            "long, a smaller data.max_length"
        ) from error


def _references(adapted: AdaptedModel, examples: Examples) -> list[Gradients]:
    """Autograd's gradients of each example alone, on a model with or without hooks.

    Raises ModelError where the model fails, PrivacyUnitError for a layer that no example uses.
    """
    found, loss = [], losses(adapted)
    for index in range(len(examples)):
        batch = examples.batch(np.array([index]))
        with as_model_error(adapted, batch):
            found.append(alone(adapted, batch, loss))
    # So few examples reach some of a layer's experts, and whoever reaches one is computed as all are.
    used = {of_all_experts(n) for n in adapted.trained if any(one[n] is not None for one in found)}
    unused = {name for name in adapted.trained if of_all_experts(name) not in used}
    if unused:
        raise PrivacyUnitError(
            f"{min(unused)} took no part in the loss: the model does not use its layer for such examples, "
            f"or reads the layer's weights without calling it. {_without(adapted, unused)}"
        )
    return [_whole(adapted, gradients) for gradients in found]


def _without(adapted: AdaptedModel, unused: Collection[str]) -> str:
    """What to name in place of layers that cannot be trained: the shortest endings that none has."""
    if all(name.endswith(".bias") and ".lora_" not in name for name in unused):
        return 'Choose adapter.bias="lora_only" or "none"'
    bad = {_layer(name) for name in unused if ".lora_" in name}
    left = set()
    for layer in {_layer(name) for name in adapted.trained if ".lora_" in name} - bad:
        parts = layer.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts)))
        found = (end for end in endings if not any(f".{other}".endswith(f".{end}") for other in bad))
        left.add(next(found, layer))
    if not left:
        return "Choose another model"
    shown = ", ".join(f'"{ending}"' for ending in sorted(left)[:_SHOWN])
    return f"Choose other adapter.target_modules, such as [{shown}]"


def _layer(name: str) -> str:
    """The layer that a tensor of LoRA's is on."""
    return of_all_experts(name).partition(".lora_")[0]


def _whole(adapted: AdaptedModel, gradients: Mapping[str, torch.Tensor | None]) -> Gradients:
    return {
        name: torch.zeros_like(adapted.trained[name]) if gradient is None else gradient
        for name, gradient in gradients.items()
    }


def _refuse_padding(adapted: AdaptedModel, together: Gradients, row: int, *, reference: Gradients) -> None:
    """Raises ModelError if an example's gradient is its own in a batch, but not in one of another size."""
    try:
        _compare(together, row, reference=reference)
    except PrivacyUnitError:
        return
    raise ModelError(
        f"model.source={adapted.spec.model.source!r}: what the model makes of an example changes with the "
        "padding after it, so it would be trained on something else than it is used on. Choose a model "
        "that leaves padding out"
    )


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
