"""The privacy-unit check: proof, on a tiny batch, that training protects what it says it does."""

from __future__ import annotations

import math

import numpy as np
import torch

from client.optimizer import PrivateOptimizer
from client.training import Trainer
from privacy.errors import ModelError, PrivacyUnitError
from privacy.mechanisms import Mechanism
from privacy.plan import Plan
from protocol.device import Device
from protocol.examples import Examples
from protocol.job import TrainingSection
from protocol.task import outcome

# float32 gradients of two orders of summation agree to about 1e-6 of their norm; a wrong unit is
# off by its whole size.
_RELATIVE = 1e-3
_BATCH = 3


def check_privacy_unit(trainer: Trainer, examples: Examples) -> None:
    """Refuse to train a model whose per-example gradients are not those of single examples.

    Checks, in float32 and with a random adapter so that no gradient is zero by construction: every
    trained parameter gets one gradient an example; each equals autograd's on that example alone;
    leaving one example out moves the clipped sum by what that example adds alone, which is at most
    the clipping norm, in L2 as in L1. Raises PrivacyUnitError naming the layer, ModelError if a
    gradient is not finite. The adapter that was loaded is lost.
    """
    adapted = trainer.adapted
    chosen = _varied_lengths(examples)
    precision = adapted.device
    adapted.device = Device(torch=precision.torch, bfloat16=False)
    try:
        random = np.random.default_rng(0).standard_normal(adapted.layout.adapter_size)
        adapted.load((0.05 * random).astype(np.float32))
        # Dropout draws another mask for each pass: no two passes could be compared with it on.
        _set_dropout(trainer, active=False)
        together = _per_example(trainer, chosen, np.arange(len(chosen)))
        for index in range(len(chosen)):
            _compare(together, index, alone=_autograd(trainer, chosen, index))
        for name in ("gaussian", "laplace"):
            _check_bound(trainer, together, Mechanism(name=name, multiplier=1.0))
    except (NotImplementedError, ValueError, AttributeError, RuntimeError) as error:
        raise PrivacyUnitError(
            f"per-example gradients failed on this model: {str(error).splitlines()[0]}"
        ) from error
    finally:
        _set_dropout(trainer, active=True)
        adapted.device = precision
        for parameter in adapted.trained.values():
            parameter.grad = parameter.grad_sample = None


def _varied_lengths(examples: Examples) -> Examples:
    """The shortest, a middling and the longest example: padding is part of what is checked."""
    order = np.argsort(examples.lengths, kind="stable")
    picks = np.linspace(0, len(order) - 1, num=min(_BATCH, len(order))).astype(np.int64)
    return examples.take(order[picks])


def _set_dropout(trainer: Trainer, *, active: bool) -> None:
    trainer.adapted.peft.train()
    if not active:
        for module in trainer.adapted.peft.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()


def _per_example(trainer: Trainer, examples: Examples, indices: np.ndarray) -> dict[str, torch.Tensor]:
    trainer.backward(examples.batch(indices))
    found = {}
    for name, parameter in trainer.adapted.trained.items():
        found[name] = parameter.grad_sample.detach().clone()
        parameter.grad = parameter.grad_sample = None
    return found


def _autograd(trainer: Trainer, examples: Examples, index: int) -> dict[str, torch.Tensor]:
    """The gradient of one example alone, by plain autograd, without Opacus' hooks."""
    batch = examples.batch(np.array([index])).to(trainer.adapted.device.torch)
    trained = trainer.adapted.trained
    with trainer.without_hooks():
        loss = outcome(trainer.adapted, batch).losses.sum()
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(trained.items(), gradients, strict=True)
    }


def _compare(together: dict[str, torch.Tensor], index: int, *, alone: dict[str, torch.Tensor]) -> None:
    size = max(float(torch.stack([g.norm() for g in alone.values()]).norm()), 1e-12)
    if not math.isfinite(size):
        raise ModelError(
            "the gradient of a single example is NaN or infinite: check the base model's weights"
        )
    for name, gradients in together.items():
        off = float((gradients[index] - alone[name]).norm()) / size
        if not off <= _RELATIVE:
            raise PrivacyUnitError(
                f"{name}: an example's gradient in a batch differs from its gradient alone by "
                f"{off:.2g} of its norm. The layer mixes examples or counts something else as one; "
                "choose other adapter.target_modules"
            )


def _check_bound(trainer: Trainer, gradients: dict[str, torch.Tensor], mechanism: Mechanism) -> None:
    """Leave each example out in turn: the sum loses what it adds alone, the clipping norm at most."""
    flat = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
    # A bound under every gradient's norm, so that clipping has something to do.
    bound = max(float(flat.norm(mechanism.norm, dim=1).min()) / 2, 1e-6)
    count = len(flat)
    whole = _clipped_sum(trainer, gradients, mechanism, bound)
    for index in range(count):
        others = np.arange(count) != index
        rest, alone = (
            _clipped_sum(trainer, {n: g[rows] for n, g in gradients.items()}, mechanism, bound)
            for rows in (others, ~others)
        )
        moved = float((whole - rest).norm(mechanism.norm)) / bound
        if not moved <= 1 + _RELATIVE:
            raise PrivacyUnitError(
                f"leaving out one example moves the clipped sum by {moved:.2f} clipping norms; "
                "expected at most 1"
            )
        off = float((whole - rest - alone).norm(mechanism.norm)) / bound
        if not off <= _RELATIVE:
            raise PrivacyUnitError(
                f"what one example adds to the clipped sum depends on the others: it differs by "
                f"{off:.2g} clipping norms from what it adds alone"
            )


def _clipped_sum(
    trainer: Trainer, gradients: dict[str, torch.Tensor], mechanism: Mechanism, bound: float
) -> torch.Tensor:
    plan = Plan(
        mechanism=mechanism,
        clipping_norm=bound,
        sampling_rate=1.0,
        steps=1,
        delta=1e-5,
    )
    optimizer: PrivateOptimizer = trainer.optimizer(TrainingSection(), plan)
    for name, parameter in trainer.adapted.trained.items():
        parameter.grad_sample = gradients[name].clone()
    optimizer.clip_and_accumulate()
    total = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
    optimizer.zero_grad(set_to_none=True)
    return total
