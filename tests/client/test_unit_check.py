"""The check refuses what would train for another unit than the example, and names the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import client.training
import protocol.adapted_model
from client.optimizer import PrivateOptimizer
from client.training import Trainer
from client.unit_check import check_privacy_unit
from privacy.errors import ModelError, PrivacyUnitError
from privacy.mechanisms import Mechanism
from privacy.plan import Plan
from protocol.adapted_model import AdaptedModel
from tests.models import CASES, Case, adapt, bert, deepseek, make_examples, make_job, qwen2_moe

EXPERTS = tuple(f"shared_experts.{part}_proj" for part in ("gate", "up", "down"))
QWEN_EXPERT = "shared_expert.gate_proj"
LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]


def check(adapted: AdaptedModel, case: Case = LLAMA) -> None:
    check_privacy_unit(Trainer(adapted), case.examples())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_passes_models_that_keep_examples_apart(case: Case) -> None:
    check(case.adapted(), case)


def test_passes_in_bfloat16_and_with_dropout_and_leaves_both_on() -> None:
    adapted = BERT.adapted(bfloat16=True, adapter={"dropout": 0.5})

    check(adapted, BERT)

    assert adapted.device.bfloat16
    dropouts = [m for m in adapted.peft.modules() if isinstance(m, nn.Dropout) and m.p == 0.5]
    assert dropouts
    assert all(module.training for module in dropouts)


def test_passes_a_site_with_a_single_example() -> None:
    check_privacy_unit(Trainer(LLAMA.adapted()), LLAMA.examples((4,)))


def test_compares_in_float32_whatever_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(LLAMA.adapted(bfloat16=True))
    backward, halved = Trainer.backward, []

    def noted(self: Trainer, *args: object) -> None:
        halved.append(self.adapted.device.bfloat16)
        backward(self, *args)

    monkeypatch.setattr(Trainer, "backward", noted)
    check_privacy_unit(trainer, LLAMA.examples())

    assert halved
    assert not any(halved)


def test_leaves_no_gradient_behind() -> None:
    passed, refused = LLAMA.adapted(), adapt(qwen2_moe(), make_job(targets=[QWEN_EXPERT]))

    check(passed)
    with pytest.raises(PrivacyUnitError):
        check(refused)

    for parameter in [*passed.trained.values(), *refused.trained.values()]:
        assert parameter.grad is None
        assert parameter.grad_sample is None


# Models and targets.


@pytest.mark.parametrize(
    "targets",
    [EXPERTS, ("gate_proj", "up_proj", "down_proj"), ("all-linear",)],
    ids=["shared experts", "every expert", "all-linear"],
)
def test_refuses_adapters_that_peft_moves_onto_routed_experts(targets: tuple[str, ...]) -> None:
    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.mlp\.experts"):
        adapt(deepseek(), make_job(targets=targets))


def test_refuses_routed_experts_by_their_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.adapted_model, "_check_targets", lambda *_: None)
    adapted = adapt(deepseek(), make_job(targets=EXPERTS))
    assert all(".mlp.experts." in name for name in adapted.trained), "PEFT moves them no more"

    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.mlp\.experts.* no per-example"):
        check(adapted)


def test_refuses_a_shared_expert_that_counts_tokens_as_examples() -> None:
    adapted = adapt(qwen2_moe(), make_job(targets=[QWEN_EXPERT]))

    # Three of the lengths 3, 5, 7, 9 are checked: 3, 5 or 7, and 9. All three are padded to 9.
    with pytest.raises(PrivacyUnitError, match=r"shared_expert\.gate_proj.* 27 rows .* 3 examples"):
        check(adapted)


def test_refuses_gradient_checkpointing_without_reentry() -> None:
    adapted = LLAMA.adapted()
    adapted.peft.gradient_checkpointing_enable({"use_reentrant": False})

    with pytest.raises(PrivacyUnitError, match=r"q_proj.* no per-example gradients"):
        check(adapted)


def test_refuses_a_layer_that_mixes_examples() -> None:
    model = bert()

    def centre(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0] - args[0].mean(0, keepdim=True), *args[1:])

    model.bert.encoder.layer[1].register_forward_pre_hook(centre)
    adapted = adapt(model, make_job(targets=BERT.targets, task=BERT.task))

    with pytest.raises(PrivacyUnitError, match=r"layer\.\d\.attention.* differs from its gradient"):
        check(adapted, BERT)


def test_refuses_a_layer_that_hears_a_whisper_of_the_others() -> None:
    model = bert()

    def whisper(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0] + 0.05 * args[0].mean(0, keepdim=True), *args[1:])

    model.bert.encoder.layer[1].register_forward_pre_hook(whisper)
    adapted = adapt(model, make_job(targets=BERT.targets, task=BERT.task))

    with pytest.raises(PrivacyUnitError, match="mixes examples"):
        check(adapted, BERT)


def test_refuses_a_trainable_parameter_outside_the_layout() -> None:
    adapted = LLAMA.adapted()
    adapted.peft.get_submodule("base_model.model.model.norm").requires_grad_(True)

    with pytest.raises(PrivacyUnitError, match=r"model\.norm\.weight.* neither clipped nor noised"):
        check(adapted)


def test_refuses_a_trained_parameter_that_takes_no_part_in_the_loss() -> None:
    adapted = LLAMA.adapted()
    layer = adapted.peft.get_submodule("base_model.model.model.layers.1.self_attn.v_proj")
    layer.forward = layer.base_layer.forward

    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.self_attn\.v_proj.* took no part"):
        check(adapted)


def test_refuses_a_base_model_with_nan_weights() -> None:
    adapted = LLAMA.adapted()
    norm = adapted.peft.get_submodule("base_model.model.model.norm")
    norm.weight.data[0] = float("nan")

    with pytest.raises(ModelError, match="NaN or infinite: check the base model's weights"):
        check(adapted)


# Clippers broken on purpose: whoever changes the optimizer may make one of these mistakes.


class NoClipping(PrivateOptimizer):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.max_grad_norm = float("inf")


class LooseClipping(PrivateOptimizer):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.max_grad_norm *= 1.01


class CentredClipping(PrivateOptimizer):
    """Takes the batch's mean from every example first."""

    def clip_and_accumulate(self) -> None:
        for parameter in self.params:
            gradients = parameter.grad_sample
            parameter.grad_sample = gradients - gradients.mean(0, keepdim=True)
        super().clip_and_accumulate()


class BatchClipping(PrivateOptimizer):
    """Clips the batch's mean in place of each example."""

    def clip_and_accumulate(self) -> None:
        count = len(self.params[0].grad_sample)
        for parameter in self.params:
            parameter.grad_sample = parameter.grad_sample.sum(0, keepdim=True) / max(count, 1)
        super().clip_and_accumulate()
        for parameter in self.params:
            parameter.summed_grad *= count


class TensorClipping(PrivateOptimizer):
    """Clips every tensor by itself to the whole bound."""

    def clip_and_accumulate(self) -> None:
        for parameter in self.params:
            norms = parameter.grad_sample.flatten(1).norm(dim=1)
            factors = (self.max_grad_norm / norms).clamp(max=1.0)
            parameter.summed_grad = torch.einsum("n,n...->...", factors, parameter.grad_sample)


class CommonFactor(PrivateOptimizer):
    """Scales all examples by one factor, from the mean of their norms."""

    def clip_and_accumulate(self) -> None:
        flat = torch.cat([p.grad_sample.flatten(1) for p in self.params], dim=1)
        factor = (self.max_grad_norm / flat.norm(dim=1).mean()).clamp(max=1.0).nan_to_num()
        for parameter in self.params:
            parameter.summed_grad = factor * parameter.grad_sample.sum(0)


class EuclideanForLaplace(PrivateOptimizer):
    """Clips the L2 norm, also where the noise is calibrated to L1."""

    def __init__(self, *args: object, plan: Plan, **kwargs: object) -> None:
        gaussian = Mechanism(name="gaussian", multiplier=plan.mechanism.multiplier)
        super().__init__(*args, plan=replace(plan, mechanism=gaussian), **kwargs)


@pytest.mark.parametrize("case", [BERT, LLAMA], ids=["bert", "llama"])
@pytest.mark.parametrize(
    "broken",
    [
        NoClipping,
        LooseClipping,
        CentredClipping,
        BatchClipping,
        TensorClipping,
        CommonFactor,
        EuclideanForLaplace,
    ],
)
def test_refuses_a_broken_clipper(
    broken: type[PrivateOptimizer], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.training, "PrivateOptimizer", broken)

    with pytest.raises(PrivacyUnitError, match="clipped sum"):
        check(case.adapted(), case)


# Per-example gradients broken on purpose.


def shift(gradients: torch.Tensor) -> torch.Tensor:
    """Each example gets its neighbour's gradient."""
    return gradients.roll(1, 0)


def average(gradients: torch.Tensor) -> torch.Tensor:
    """Each example gets the mean."""
    return gradients.mean(0, keepdim=True).expand_as(gradients)


def shrink(gradients: torch.Tensor) -> torch.Tensor:
    """As if the loss were a mean: clipping would see gradients a batch too small."""
    return gradients / len(gradients)


@pytest.mark.parametrize("wrong", [shift, average, shrink])
def test_refuses_wrong_gradients_of_one_tensor(
    wrong: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = LLAMA.adapted()
    name, parameter = list(adapted.trained.items())[-1]
    assert "v_proj" in name
    trainer = Trainer(adapted)
    backward = Trainer.backward

    def tampered(self: Trainer, *args: object) -> None:
        backward(self, *args)
        parameter.grad_sample = wrong(parameter.grad_sample)

    monkeypatch.setattr(Trainer, "backward", tampered)

    with pytest.raises(PrivacyUnitError, match=r"v_proj.* differs from its gradient"):
        check_privacy_unit(trainer, LLAMA.examples())


def test_checks_the_shortest_and_the_longest_example(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(LLAMA.adapted())
    backward, masks = Trainer.backward, []

    def seen(self: Trainer, batch, *args: object) -> None:
        masks.append(batch.mask.numpy())
        backward(self, batch, *args)

    monkeypatch.setattr(Trainer, "backward", seen)
    check_privacy_unit(trainer, make_examples((9, 4, 12, 6, 2, 5)))

    lengths = np.concatenate([mask.sum(1) for mask in masks])
    assert {2, 12} <= set(lengths)
