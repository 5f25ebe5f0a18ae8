"""The check refuses what would train for another unit than the example, and names the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import client.training.unit_check
import tasks.model.attach_adapter
from client.training.gradients import Gradients, HookedGradients, Loss
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError, PrivacyUnitError
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel
from tasks.model.model_spec import ModelSpec
from tests.models import CASES, Case, adapt, bert, deepseek, llama, make_examples, make_job, qwen2_moe

EXPERTS = tuple(f"shared_experts.{part}_proj" for part in ("gate", "up", "down"))
QWEN_EXPERT = "shared_expert.gate_proj"
LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]


def check(adapted: AdaptedModel, case: Case = LLAMA) -> None:
    check_privacy_unit(HookedGradients(adapted), case.examples())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.exhaustive(but=2)
def test_passes_models_that_keep_examples_apart(case: Case) -> None:
    method = HookedGradients(case.adapted())

    check_privacy_unit(method, case.examples())
    check_privacy_unit(method, method.adapted.probe())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("strategy", ["ffa", "fedsvd"])
@pytest.mark.exhaustive(but=3)
def test_passes_them_with_half_of_each_pair_frozen_in_the_upper_layer(case: Case, strategy: str) -> None:
    adapted = case.adapted(adapter={"layers_to_transform": [1]}, strategy={"name": strategy})

    check(adapted, case)


def test_passes_in_bfloat16_and_with_dropout_and_leaves_both_on() -> None:
    adapted = BERT.adapted(bfloat16=True, adapter={"dropout": 0.5}, privacy={"mechanism": "none"})

    check(adapted, BERT)

    assert adapted.device.bfloat16
    dropouts = [m for m in adapted.peft.modules() if isinstance(m, nn.Dropout) and m.p == 0.5]
    assert dropouts
    assert all(module.training for module in dropouts)


def test_passes_a_site_with_a_single_example() -> None:
    check_privacy_unit(HookedGradients(LLAMA.adapted()), LLAMA.examples((4,)))


def test_compares_in_float32_whatever_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    method = HookedGradients(LLAMA.adapted(bfloat16=True))
    backward, halved = HookedGradients.backward, []

    def noted(self: HookedGradients, *args: Any) -> Gradients:
        halved.append(self.adapted.device.bfloat16)
        return backward(self, *args)

    monkeypatch.setattr(HookedGradients, "backward", noted)
    check_privacy_unit(method, LLAMA.examples())

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
        assert parameter.summed_grad is None


# Models and targets.


@pytest.mark.parametrize(
    "targets",
    [EXPERTS, ("gate_proj", "up_proj", "down_proj"), ("all-linear",)],
    ids=["shared experts", "every expert", "all-linear"],
)
def test_refuses_adapters_that_peft_takes_optimizerto_routed_experts(targets: tuple[str, ...]) -> None:
    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.mlp\.experts"):
        adapt(deepseek(), make_job(targets=targets))


@pytest.mark.parametrize("targets", [EXPERTS, ("gate_proj", "up_proj", "down_proj"), ("all-linear",)])
def test_finds_adapters_on_routed_experts_by_itself(
    targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.model.attach_adapter, "_check_targets", lambda *_: None)
    adapted = adapt(deepseek(), make_job(targets=targets))
    assert any(".mlp.experts." in name for name in adapted.trained), "PEFT moves them no more"

    with pytest.raises(PrivacyUnitError, match=r"not asked for: .*layers\.1\.mlp\.experts"):
        check(adapted)


def test_refuses_routed_experts_by_their_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.model.attach_adapter, "_check_targets", lambda *_: None)
    monkeypatch.setattr(client.training.unit_check, "_check_names", lambda *_: None)

    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.mlp\.experts.* differs from its gradient"):
        check(adapt(deepseek(), make_job(targets=EXPERTS)))


@pytest.mark.parametrize(
    ("asked", "odd"),
    [
        ({"targets": ["q_proj", "v_proj", "o_proj"]}, r"not trained: .*layers\.0\.self_attn\.o_proj"),
        ({"targets": ["q_proj"]}, r"not asked for: .*layers\.0\.self_attn\.v_proj"),
        ({"adapter": {"layers_to_transform": [1]}}, r"not asked for: .*layers\.0\.self_attn\.q_proj"),
        ({"strategy": {"name": "ffa"}}, r"not asked for: .*q_proj\.lora_A"),
    ],
    ids=["a target more", "a target less", "a layer less", "A frozen"],
)
def test_refuses_what_the_job_did_not_ask_for(asked: dict[str, Any], odd: str) -> None:
    adapted = LLAMA.adapted()
    adapted.spec = ModelSpec.of(make_job(**({"targets": LLAMA.targets} | asked)))

    with pytest.raises(PrivacyUnitError, match=odd):
        check(adapted)


def test_refuses_a_shared_expert_that_counts_tokens_as_examples() -> None:
    adapted = adapt(qwen2_moe(), make_job(targets=[QWEN_EXPERT]))

    # Three of the lengths 3, 5, 7, 9 are checked: 3, 5 or 7, and 9. All three are padded to 9.
    with pytest.raises(PrivacyUnitError, match=r"shared_expert\.gate_proj.* 27 rows .* 3 examples"):
        check(adapted)


def test_gradient_checkpointing_does_nothing_to_layers_that_are_only_evaluated() -> None:
    """It would hide activations from the hooks, and is for layers in training mode."""
    adapted = LLAMA.adapted()
    adapted.peft.gradient_checkpointing_enable({"use_reentrant": False})

    check(adapted)


@pytest.mark.parametrize("share", [-1.0, 0.05], ids=["centred", "a whisper"])
def test_refuses_a_layer_that_mixes_examples(share: float) -> None:
    model = bert()

    def mix(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0] + share * args[0].mean(0, keepdim=True), *args[1:])

    model.bert.encoder.layer[1].register_forward_pre_hook(mix)
    adapted = adapt(model, make_job(targets=BERT.targets, task=BERT.task))

    with pytest.raises(
        PrivacyUnitError, match=r"^base_model\.model\..* differs from its gradient alone.* mixes examples"
    ):
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


def test_refuses_a_layer_that_short_texts_do_not_use() -> None:
    adapted = adapt(llama(), make_job(targets=["v_proj"]))
    layer = adapted.peft.get_submodule("base_model.model.model.layers.0.self_attn.v_proj")
    whole = layer.forward
    layer.forward = lambda x, *args: (whole if x.shape[1] > 4 else layer.base_layer)(x, *args)

    # In a batch of short texts it would keep the gradients of the batch before, if anything did.
    with pytest.raises(ModelError, match="changes with the padding after it"):
        check(adapted)


def test_refuses_a_layer_that_remembers_the_batch_before() -> None:
    adapted, held = LLAMA.adapted(), [torch.zeros(16)]

    def remember(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        last, held[0] = held[0], args[0].detach().mean((0, 1))
        return output + last

    adapted.peft.get_submodule("base_model.model.model.layers.0.mlp").register_forward_hook(remember)

    with pytest.raises(PrivacyUnitError, match=r"layers\.\d\..* remembers the batch before"):
        check(adapted)


def test_refuses_a_base_model_with_nan_weights() -> None:
    adapted = LLAMA.adapted()
    norm = adapted.peft.get_submodule("base_model.model.model.norm")
    norm.weight.data[0] = float("nan")

    with pytest.raises(ModelError, match="NaN or infinite: check the base model's weights"):
        check(adapted)


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


class OfTheBatchBefore:
    """What Opacus' ghost clipping does with the norms of a parameter that a batch does not use."""

    last = torch.empty(0)

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        last, self.last = self.last, gradients
        return last[: len(gradients)] if len(last) >= len(gradients) else gradients


class KeptBySize:
    """The gradients of the first batch of as many examples."""

    def __init__(self) -> None:
        self.held: dict[int, torch.Tensor] = {}

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        return self.held.setdefault(len(gradients), gradients)


@pytest.mark.parametrize(
    "wrong",
    [shift, average, shrink, OfTheBatchBefore(), KeptBySize()],
    ids=["shifted", "averaged", "shrunk", "of the batch before", "kept by size"],
)
def test_refuses_wrong_gradients_of_one_tensor(
    wrong: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = LLAMA.adapted()
    name = list(adapted.trained)[-1]
    assert "v_proj" in name
    method, backward = HookedGradients(adapted), HookedGradients.backward

    def tampered(self: HookedGradients, *args: Any) -> Gradients:
        found = backward(self, *args)
        return {**found, name: wrong(found[name])}

    monkeypatch.setattr(HookedGradients, "backward", tampered)

    with pytest.raises(PrivacyUnitError, match=r"v_proj.* differs from its gradient"):
        check_privacy_unit(method, LLAMA.examples())


def test_checks_the_shortest_and_the_longest_example(monkeypatch: pytest.MonkeyPatch) -> None:
    method = HookedGradients(LLAMA.adapted())
    backward, masks = HookedGradients.backward, []

    def seen(self: HookedGradients, batch: Batch, loss: Loss) -> Gradients:
        masks.append(batch.inputs["attention_mask"].numpy())
        return backward(self, batch, loss)

    monkeypatch.setattr(HookedGradients, "backward", seen)
    check_privacy_unit(method, make_examples((9, 4, 12, 6, 2, 5)))

    lengths = np.concatenate([mask.sum(1) for mask in masks])
    assert {2, 12} <= set(lengths)
