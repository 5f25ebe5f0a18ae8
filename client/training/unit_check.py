"""The privacy-unit check: proof, on a tiny batch, that training protects what it says it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from client.training.gradient_check import as_model_error, as_unit_error, check_gradients, comparable
from client.training.gradients import PerExampleGradients, losses
from client.training.noise_check import check_noise
from client.training.sum_check import check_clipped_sum, check_steps, silent_optimizer
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.attach_adapter import adapted_layers
from tasks.model.expert_weights import expert_weights, named_by
from tasks.model.model_layers import convolutions, layer_lists, layer_number, linear_layers

_BATCH = 3
_COPIES = ("original_module", "modules_to_save")  # that PEFT makes of a head
# From a way to find gradients, and made-up examples to try it on; raises what ``check_privacy_unit`` does.
UnitCheck = Callable[[PerExampleGradients, Examples], None]


@timed(Part.CHECKS)
def check_privacy_unit(method: PerExampleGradients, examples: Examples) -> None:
    """Refuse to train a model whose per-example gradients are not those of single examples.

    Checks, in float32 and with a random adapter so that no gradient is zero by construction: what is
    trained is what the job names, and all of it is the optimizer's; every trained parameter gets one
    gradient an example, equal to autograd's on that example alone, whatever batch went before;
    leaving one example out moves the clipped sum by what that example adds alone, which is at most
    the clipping norm, in L2 as in L1, and nothing for one that is not finite; a step releases the
    sum of its own batch, empty, whole or in parts, and the plan's noise on each number of it, once; the
    widest batch that training may make can be computed; and no buffer of the model changes. Where rounds
    train other tensors, each kind of round is checked. Raises PrivacyUnitError naming the layer, ModelError
    if a gradient is not finite. The adapter
    that was loaded is lost.
    """
    for number in method.adapted.spec.trained_rounds.kinds:
        method.adapted.train_in(number)
        _check_round(method, _varied_sizes(examples), number)


def _check_round(method: PerExampleGradients, chosen: Examples, number: int) -> None:
    adapted = method.adapted
    _check_names(adapted, number)
    _check_covered(adapted)
    with as_unit_error(), _buffers_as_they_are(adapted), comparable(adapted):
        gradients = check_gradients(method, chosen)
        gaussian = Mechanism(name="gaussian", multiplier=1.0)
        laplace = Mechanism(name="laplace", multiplier=1.0)
        check_clipped_sum(adapted, gradients, gaussian)
        check_clipped_sum(adapted, gradients, laplace)
        check_steps(method, chosen, gradients, gaussian)
        check_noise(adapted, gaussian)
        check_noise(adapted, laplace)
        # Batches are a little wider than the longest text: what fails there must not do so in a round.
        widest = chosen.batch(np.array([len(chosen) - 1]), size=adapted.sizes.public[-1])
        with as_model_error(adapted, widest):
            method.backward(widest, losses(adapted))


# What is trained.


def _check_names(adapted: AdaptedModel, number: int) -> None:
    """What is trained is what the job's adapter section names, found without PEFT's own matching."""
    trained, asked = set(adapted.trained), _asked_for(adapted, number)
    if trained != asked:
        raise PrivacyUnitError(
            "training is not what the job's adapter section asks for. Trained but not asked for: "
            f"{_few(trained - asked)}; asked for but not trained: {_few(asked - trained)}. Choose other "
            "adapter.target_modules"
        )


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) or "nothing"


def _asked_for(adapted: AdaptedModel, number: int) -> set[str]:
    """What a round trains of LoRA on the layers that the targets name, of biases, and of the head."""
    spec, model = adapted.spec, adapted.peft.get_base_model()
    layers, targets = adapted_layers(spec.adapter, model), spec.adapter.target_modules
    lists = layer_lists(model)
    halves = ("lora_A", "lora_B", "lora_C") if spec.strategy.cored else ("lora_A", "lora_B")
    asked = set()
    for name, linear, layer in _adaptable_layers(adapted):
        everywhere = linear and targets == ["all-linear"]
        named = everywhere or any(f".{name}".endswith(f".{target}") for target in targets)
        if named and (layers is None or layer_number(name, lists) in layers):
            asked |= {f"{name}.{half}.weight" for half in halves}
            if spec.adapter.bias == "lora_only" and layer.bias is not None:
                asked.add(f"{name}.base_layer.bias")
    for name, expert in _experts(adapted):
        named = any(named_by(name, target) for target in targets)
        if named and (layers is None or layer_number(name, lists) in layers):
            asked |= {f"{name}.{expert}.{half}.weight" for half in halves}
    for head in adapted.base.head:
        original = model.get_submodule(head).original_module
        asked |= {f"{head}.{name}" for name, _ in original.named_parameters()}
    if spec.adapter.bias == "all":
        copies = tuple(f"{head}.{copy}." for head in adapted.base.head for copy in _COPIES)
        biases = (name for name, _ in model.named_parameters() if name.endswith(".bias"))
        asked |= {name for name in biases if not name.startswith(copies)}
    names = {f"base_model.model.{name}" for name in asked}
    return {name for name in names if spec.trained_rounds.trains_in(name, number)}


def _adaptable_layers(adapted: AdaptedModel) -> Iterator[tuple[str, bool, Any]]:
    """The layers under the head that LoRA may be on, by their names before PEFT wrapped some of them.

    With each is said whether it is a linear one.
    """
    model = adapted.peft.get_base_model()
    for linear, found in ((True, linear_layers(model)), (False, convolutions(model))):
        for inside, layer in found:
            name = inside.removesuffix(".base_layer")
            if adapted.base.may_adapt(name) and "lora_" not in name:
                yield name, linear, layer


def _experts(adapted: AdaptedModel) -> Iterator[tuple[str, int]]:
    """Each expert of the fused weights that LoRA may be on: the weight's name, and the expert's number."""
    for name, experts in expert_weights(adapted.peft.get_base_model()):
        weight = name.replace(".base_layer.", ".")
        if adapted.base.may_adapt(weight):
            for number in range(len(experts.down_proj)):
                yield weight, number


def _check_covered(adapted: AdaptedModel) -> None:
    """No parameter is trainable that the optimizer does not clip."""
    optimizer = silent_optimizer(adapted, Mechanism(name="gaussian", multiplier=1.0), clipping_norm=1.0)
    clipped = {id(parameter) for parameter in optimizer.params}
    missed = [
        name
        for name, parameter in adapted.peft.named_parameters()
        if parameter.requires_grad and id(parameter) not in clipped
    ]
    if missed:
        raise PrivacyUnitError(
            f"trainable but outside the optimizer: {', '.join(missed[:4])}; their gradients would be "
            "neither clipped nor noised"
        )


@contextmanager
def _buffers_as_they_are(adapted: AdaptedModel) -> Iterator[None]:
    """Refuse a model that keeps something of examples, as a running mean does: evaluation reads it."""
    before = {name: buffer.clone() for name, buffer in adapted.peft.named_buffers()}
    yield
    for name, buffer in adapted.peft.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise PrivacyUnitError(
                f"{name} changes while examples are computed: what one leaves there would be in what is "
                "computed of others. Choose another model"
            )


# What it is tried on.


def _varied_sizes(examples: Examples) -> Examples:
    """The smallest, a middling and the largest example: padding is part of what is checked."""
    order = np.argsort(examples.sizes, kind="stable")
    picks = np.linspace(0, len(order) - 1, num=min(_BATCH, len(order))).astype(np.int64)
    return examples.take(order[picks])
