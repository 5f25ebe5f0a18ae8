"""The privacy-unit check: proof, on a tiny batch, that training protects what it says it does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from client.training.sum_check import Gradients, check_clipped_sum, check_steps, make_optimizer
from client.training.training import Trainer
from privacy.errors import ModelError, PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel, adapted_layers
from tasks.model.device import Device

# float32 gradients of two orders of summation agree to about 1e-6 of their norm; a wrong unit is
# off by its whole size.
_RELATIVE = 1e-3
_BATCH = 3


def check_privacy_unit(trainer: Trainer, examples: Examples) -> None:
    """Refuse to train a model whose per-example gradients are not those of single examples.

    Checks, in float32 and with a random adapter so that no gradient is zero by construction: what is
    trained is what the job names, and all of it is the optimizer's; every trained parameter gets one
    gradient an example, equal to autograd's on that example alone, whatever batch went before;
    leaving one example out moves the clipped sum by what that example adds alone, which is at most
    the clipping norm, in L2 as in L1, and nothing for one that is not finite; a step releases the
    sum of its own batch, empty, whole or in parts; the widest batch that training may make can be
    computed. Raises PrivacyUnitError naming the layer,
    ModelError if a gradient is not finite. The adapter that was loaded is lost.
    """
    _check_names(trainer.adapted)
    _check_covered(trainer)
    chosen = _varied_sizes(examples)
    try:
        with _comparable(trainer.adapted):
            gradients = _check_gradients(trainer, chosen)
            gaussian = Mechanism(name="gaussian", multiplier=1.0)
            laplace = Mechanism(name="laplace", multiplier=1.0)
            check_clipped_sum(trainer, gradients, gaussian)
            check_clipped_sum(trainer, gradients, laplace)
            check_steps(trainer, chosen, gradients, gaussian)
            # Batches are a little wider than the longest text: what fails there must not do so in a round.
            widest = trainer.adapted.sizes.public[-1]
            trainer.backward(chosen.batch(np.array([len(chosen) - 1]), size=widest))
    except (NotImplementedError, ValueError, AttributeError, RuntimeError) as error:
        raise PrivacyUnitError(
            f"per-example gradients failed on this model: {str(error).splitlines()[0]}"
        ) from error


# What is trained.


def _check_names(adapted: AdaptedModel) -> None:
    """What is trained is what the job's adapter section names, found without PEFT's own matching."""
    trained, asked = set(adapted.trained), _asked_for(adapted)
    if trained != asked:
        raise PrivacyUnitError(
            "training is not what the job's adapter section asks for. Trained but not asked for: "
            f"{_few(trained - asked)}; asked for but not trained: {_few(asked - trained)}. Choose other "
            "adapter.target_modules"
        )


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) or "nothing"


def _asked_for(adapted: AdaptedModel) -> set[str]:
    """Names of LoRA's tensors on each linear layer that the targets name, and of the head's."""
    spec, model = adapted.spec, adapted.peft.get_base_model()
    layers, targets = adapted_layers(spec, model), spec.adapter.target_modules
    halves = ("lora_A", "lora_B") if spec.strategy.name == "lora" else ("lora_B",)
    asked = set()
    for name in _linear_layers(adapted):
        number = next((int(part) for part in name.split(".") if part.isdigit()), None)
        named = targets == ["all-linear"] or any(f".{name}".endswith(f".{target}") for target in targets)
        if named and (layers is None or number in layers):
            asked |= {f"{name}.{half}.weight" for half in halves}
    for head in adapted.base.head:
        original = model.get_submodule(head).original_module
        asked |= {f"{head}.{name}" for name, _ in original.named_parameters()}
    return {f"base_model.model.{name}" for name in asked}


def _linear_layers(adapted: AdaptedModel) -> Iterator[str]:
    """The linear layers under the head, by their names before PEFT wrapped some of them."""
    model: Any = adapted.peft.get_base_model()
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for inside, module in model.named_modules():
        name = inside.removesuffix(".base_layer")
        # GPT-2 calls its linear layers Conv1D.
        linear = isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        if (
            linear
            and module is not output
            and name.split(".")[0] not in adapted.base.head
            and "lora_" not in name
        ):
            yield name


def _check_covered(trainer: Trainer) -> None:
    """No parameter is trainable that the optimizer does not clip."""
    optimizer = make_optimizer(trainer, Mechanism(name="gaussian", multiplier=1.0), clipping_norm=1.0)
    clipped = {id(parameter) for parameter in optimizer.params}
    missed = [
        name
        for name, parameter in trainer.adapted.peft.named_parameters()
        if parameter.requires_grad and id(parameter) not in clipped
    ]
    if missed:
        raise PrivacyUnitError(
            f"trainable but outside the optimizer: {', '.join(missed[:4])}; their gradients would be "
            "neither clipped nor noised"
        )


# Each example's gradient.


def _varied_sizes(examples: Examples) -> Examples:
    """The smallest, a middling and the largest example: padding is part of what is checked."""
    order = np.argsort(examples.sizes, kind="stable")
    picks = np.linspace(0, len(order) - 1, num=min(_BATCH, len(order))).astype(np.int64)
    return examples.take(order[picks])


@contextmanager
def _comparable(adapted: AdaptedModel) -> Iterator[None]:
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
            parameter.grad = parameter.grad_sample = parameter.summed_grad = None


def _check_gradients(trainer: Trainer, examples: Examples) -> Gradients:
    """Compare batch after batch with autograd on each example alone; those of the last, all examples.

    Batches differ in order and size, so that what one leaves behind would show in the next.
    """
    everyone = np.arange(len(examples))
    alone = [_autograd(trainer, examples, index) for index in everyone]
    for indices in (everyone[::-1], everyone[:1], everyone):
        together = _per_example(trainer, examples, indices)
        for row, index in enumerate(indices):
            _compare(together, row, alone=alone[index])
    return together


def _per_example(trainer: Trainer, examples: Examples, indices: np.ndarray) -> Gradients:
    trainer.backward(examples.batch(indices))
    found = {}
    for name, parameter in trainer.adapted.trained.items():
        found[name] = parameter.grad_sample.detach().clone()
        parameter.grad = parameter.grad_sample = None
    return found


def _autograd(trainer: Trainer, examples: Examples, index: int) -> Gradients:
    """The gradient of one example alone, by plain autograd, without Opacus' hooks."""
    batch = examples.batch(np.array([index])).to(trainer.adapted.device.torch)
    trained = trainer.adapted.trained
    with trainer.without_hooks():
        loss = trainer.adapted.forward(batch).losses.sum()
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(trained.items(), gradients, strict=True)
    }


def _compare(together: Gradients, row: int, *, alone: Gradients) -> None:
    size = max(float(torch.stack([g.norm() for g in alone.values()]).norm()), 1e-12)
    if not math.isfinite(size):
        raise ModelError(
            "the gradient of a single example is NaN or infinite: check the base model's weights"
        )
    for name, gradients in together.items():
        off = float((gradients[row] - alone[name]).norm()) / size
        if not off <= _RELATIVE:
            raise PrivacyUnitError(
                f"{name}: an example's gradient in a batch differs from its gradient alone by "
                f"{off:.2g} of its norm. The layer mixes examples, counts something else as one or "
                "remembers the batch before; choose other adapter.target_modules"
            )
