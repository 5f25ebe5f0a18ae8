"""LoRA on routed experts: where it is put, what it refuses, and what stock PEFT makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privacy.errors import ModelError, PrivacyUnitError
from runs.peft_form import load_tensors, peft_config, save_tensors
from tasks.model.adapted_model import AdaptedModel
from tasks.model.routed_experts import RoutedExperts
from tests.models import (
    ROUTED,
    Case,
    adapt,
    deepseek,
    gpt_oss,
    make_job,
    mixtral,
    qwen3_moe,
    random_adapter,
)

CASES = pytest.mark.parametrize("case", ROUTED.values(), ids=ROUTED)
TOKENS = torch.tensor([[5, 9, 4, 30, 12, 7, 1, 2], [3, 3, 8, 41, 20, 6, 9, 44]])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=TOKENS).logits
    return found


def saved(adapted: AdaptedModel, folder: Path) -> Path:
    """What a round leaves: PEFT's files, with an adapter that is loaded."""
    adapter = random_adapter(adapted)
    adapted.load(adapter)
    config = peft_config(adapted.peft.peft_config["default"].to_dict(), adapted.spec.adapter)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config, default=str), "utf-8")
    save_tensors(folder, adapted.layout.split(adapter), begun=None)
    return folder


def stock(case: Case, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(case.build(), folder)


@CASES
@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"target_modules": ["experts"], "scaling": "rslora", "rank": 3},
        {"target_modules": ["experts.down_proj"], "layers_to_transform": [1]},
        {"rank_pattern": {"gate_up_proj": 3}, "alpha_pattern": {"down_proj": 7.0}},
    ],
    ids=["with attention", "alone, rsLoRA", "one weight of one layer", "patterns"],
)
def test_stock_peft_computes_the_same(case: Case, adapter: dict[str, Any], tmp_path: Path) -> None:
    adapted = case.adapted(adapter=adapter)
    folder = saved(adapted, tmp_path / "adapter")
    expected, plain = logits(adapted.peft), logits(case.build())
    assert (expected - plain).norm() > 0.01 * plain.norm(), "the adapter must change something"
    found = logits(stock(case, folder))
    # Sums of float32 in another order: PEFT adds B · A to the weight first.
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    kept = load_tensors(folder)
    assert kept.keys() == {slot.name for slot in adapted.layout.slots}


@CASES
def test_merged_weights_compute_the_same(case: Case) -> None:
    adapted = case.adapted()
    adapted.load(random_adapter(adapted))
    expected = logits(adapted.peft)
    merged = adapted.peft.merge_and_unload()
    assert not any(isinstance(module, RoutedExperts) for module in merged.modules())
    assert {name for name, _ in merged.named_parameters()} == {
        n for n, _ in case.build().named_parameters()
    }
    assert (logits(merged) - expected).norm() <= 1e-5 * expected.norm()


@CASES
def test_an_adapter_at_rest_changes_nothing(case: Case) -> None:
    adapted = case.adapted()
    adapted.load(adapted.initial_adapter(0))
    plain = logits(case.build())
    assert (logits(adapted.peft) - plain).norm() <= 1e-6 * plain.norm()


@CASES
def test_the_model_without_its_adapter_is_the_base_model(case: Case) -> None:
    adapted = case.adapted()
    adapted.load(random_adapter(adapted))
    plain, trained = logits(case.build()), logits(adapted.peft)
    with adapted.as_it_began():
        assert (logits(adapted.peft) - plain).norm() <= 1e-6 * plain.norm()
    assert torch.equal(logits(adapted.peft), trained)


def test_each_expert_is_a_layer_with_a_pair() -> None:
    adapted = adapt(mixtral(), make_job(targets=["experts"], adapter={"rank": 3}))
    layers = {pair.a.removesuffix(".lora_A.weight") for pair in adapted.layout.pairs}
    stem = "base_model.model.model.layers"
    assert layers == {
        f"{stem}.{layer}.mlp.experts.{weight}.{number}"
        for layer in range(2)
        for weight in ("gate_up_proj", "down_proj")
        for number in range(4)
    }
    shapes = {slot.name: slot.shape for slot in adapted.layout.slots}
    assert shapes[f"{stem}.0.mlp.experts.gate_up_proj.0.lora_A.weight"] == (3, 16)
    assert shapes[f"{stem}.0.mlp.experts.gate_up_proj.0.lora_B.weight"] == (16, 3)
    assert shapes[f"{stem}.0.mlp.experts.down_proj.0.lora_A.weight"] == (3, 8)
    rows = adapted.layout.matrices(adapted.initial_adapter(0))
    for pair in adapted.layout.pairs:
        np.testing.assert_allclose(rows[pair.a] @ rows[pair.a].T, np.eye(3), atol=1e-6)
        assert not rows[pair.b].any()


def test_shared_experts_and_dense_layers_are_no_routed_ones() -> None:
    adapted = adapt(deepseek(), make_job(targets=["experts", "o_proj"]))
    named = {name.rpartition(".lora_")[0] for name in adapted.trained}
    assert not any("shared_experts" in name or "layers.0.mlp" in name for name in named)
    assert any("layers.1.mlp.experts.down_proj.3" in name for name in named)


@pytest.mark.parametrize(
    ("build", "targets", "words"),
    [
        (qwen3_moe, ["down_proj"], r"linear layers are called: .*; its routed experts: experts"),
        (qwen3_moe, ["expert"], "its routed experts: experts"),
        (gpt_oss, ["experts"], r"layers\.0\.mlp\.experts are experts with biases"),
        (qwen3_moe, ["all-linear", "experts"], '"all-linear" alone'),
    ],
    ids=["a weight without its module", "no such module", "with biases", "beside all-linear"],
)
def test_targets_that_name_no_experts_are_refused(build: Any, targets: list[str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        adapt(build(), make_job(targets=targets))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"adapter": {"dropout": 0.1}, "privacy": {"mechanism": "none"}}, r"adapter\.dropout: expected 0"),
        ({"adapter": {"init": "pissa"}}, r'adapter\.init: expected "orthonormal" with LoRA on routed'),
        ({"adapter": {"init": "olora"}}, r'adapter\.init: expected "orthonormal" with LoRA on routed'),
        ({"strategy": {"name": "fedsb"}}, r"experts\.\w+\.\d is no linear layer"),
        *(
            ({"strategy": {"name": name}}, r"one of a layer's routed experts, whose weights no residual")
            for name in ("flora", "fedex")
        ),
    ],
    ids=["dropout", "pissa", "olora", "a core", "flora", "fedex"],
)
def test_what_experts_do_not_go_with_is_refused_by_name(sections: dict[str, Any], words: str) -> None:
    plain = {"aggregation": {"kind": "none"}}
    with pytest.raises(ModelError, match=words):
        adapt(mixtral(), make_job(targets=["experts"], **plain, **sections))


def test_experts_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    forward = MixtralExperts.forward
    monkeypatch.setattr(MixtralExperts, "forward", lambda self, *given: 1.01 * forward(self, *given))
    with pytest.raises(ModelError, match="computes something else"):
        adapt(mixtral(), make_job(targets=["experts"]))


def test_tokens_that_are_nobodys_are_refused() -> None:
    adapted = adapt(mixtral(), make_job(targets=["experts"]))
    module = next(m for m in adapted.peft.modules() if isinstance(m, RoutedExperts))
    chosen = torch.zeros(7, 2, dtype=torch.int64)
    with module.rows_apart(3, lambda half, _row: half), pytest.raises(PrivacyUnitError, match="7 tokens"):
        module(torch.zeros(7, 16), chosen, torch.ones(7, 2))


def test_pefts_wrappers_are_all_taken_off() -> None:
    adapted = adapt(mixtral(), make_job(targets=["experts"]))
    assert not any(hasattr(module, "parameter_name") for module in adapted.peft.modules())
