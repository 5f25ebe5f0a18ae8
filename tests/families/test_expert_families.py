"""Routed experts of each family of mixtures: they carry adapters, or are refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers

from client.training.gradient_check import choose_gradients
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError
from tasks.model.adapted_model import AdaptedModel
from tests.families.family import ABSENT, SIZES, Family
from tests.families.table import FAMILIES
from tests.models import adapt, make_job

CARRY = (
    *("Qwen2-MoE", "DeepSeek-V2", "OLMoE", "Phi-MoE", "Granite-MoE", "MiniMax"),
    *("Qwen3-Next", "Jamba", "Granite-MoE-hybrid"),
)
REFUSED = {
    "gpt-oss": r"layers\.0\.mlp\.experts are experts with biases, or laid out otherwise",
    "Llama 4, text": r"layers\.1\.feed_forward\.experts are experts with biases, or laid out otherwise",
    "DBRX": "expected the names of linear layers",
    "JetMoE": "expected the names of linear layers",
}


def adapted(name: str) -> AdaptedModel:
    (family,) = (family for family in FAMILIES if family.name == name)
    job = make_job(targets=[*family.targets, "experts"], data={"source": "none", "max_length": 32})
    return adapt(_model(family), job)


def _model(family: Family) -> torch.nn.Module:
    kind = getattr(transformers, family.saved)
    sizes = {key: size for key, size in {**SIZES, **family.sizes}.items() if size != ABSENT}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found: torch.nn.Module = kind(kind.config_class(**sizes), **family.options)
    return found


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", CARRY)
def test_experts_carry_adapters(name: str) -> None:
    model = adapted(name)
    assert any(".experts.down_proj.3.lora_B" in tensor for tensor in model.trained)
    method = choose_gradients(model)
    assert isinstance(method, StackedGradients)
    check_privacy_unit(method, model.probe())


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        adapted(name)
