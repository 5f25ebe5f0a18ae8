"""In the frozen model nothing is drawn and nothing of a batch is kept, whatever the mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_modes import keep_evaluated
from tests.tasks.model.checkpoints import DECODER, ENCODER, adapt, write_checkpoint

# Randomness that no key named "dropout" sets, or that follows a module's mode alone.
RANDOM: dict[str, tuple[str, dict[str, Any], str]] = {
    "a decoder's token head": ("LlamaForCausalLM", DECODER, "mean"),
    "a router": (
        "MixtralForCausalLM",
        DECODER | {"num_local_experts": 2, "router_jitter_noise": 0.5},
        "model",
    ),
    "attention": ("BertModel", ENCODER | {"attention_probs_dropout_prob": 0.5}, "model"),
    "layers left out": (
        "OPTForCausalLM",
        ENCODER | {"ffn_dim": 32, "word_embed_proj_dim": 16, "layerdrop": 0.5, "dropout": 0.5},
        "model",
    ),
}


def losses(adapted: AdaptedModel) -> torch.Tensor:
    examples = adapted.task.made_up(adapted, np.random.default_rng(0), np.array([3, 8]))
    with torch.no_grad():
        return adapted.forward(examples.batch(np.arange(2))).losses


@pytest.mark.parametrize("name", RANDOM)
def test_training_mode_repeats_evaluation_bit_for_bit(name: str, tmp_path: Path) -> None:
    kind, config, pooling = RANDOM[name]
    adapted = adapt(write_checkpoint(tmp_path, kind, **config), model={"pooling": pooling})
    random = np.random.default_rng(0)
    adapted.load((0.3 * random.standard_normal(adapted.layout.adapter_size)).astype(np.float32))
    adapted.peft.eval()
    expected = losses(adapted)
    adapted.peft.train()
    assert torch.equal(losses(adapted), expected)
    assert torch.equal(losses(adapted), expected)


def test_the_adapters_own_dropout_follows_the_mode(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "BertModel", **ENCODER)
    adapter = {"rank": 2, "target_modules": ["query"], "dropout": 0.5}
    adapted = adapt(folder, adapter=adapter, privacy={"mechanism": "none"})
    adapted.peft.train()
    training = {name for name, module in adapted.peft.named_modules() if module.training}
    assert any(name.endswith("query.lora_dropout.default") for name in training)
    assert any(name.endswith("classifier.modules_to_save.default") for name in training)
    assert not any(
        name.endswith(("base_layer", "attention.output.dropout", "LayerNorm")) for name in training
    )
    adapted.peft.eval()
    assert not any(module.training for module in adapted.peft.modules())


def test_a_norm_over_the_batch_keeps_nothing_of_it() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
    )
    keep_evaluated(model, trained=["2"])
    model.train()
    row = torch.tensor([[1.0, 2.0, 3.0]])
    with torch.no_grad():
        # Row by row and together: the norm is a function of one row.
        torch.testing.assert_close(model(torch.cat([row, 9 * row]))[:1], model(row))
    assert not model[1].running_mean.any()
    assert [module.training for module in (model[0], model[1], model[2][0], model[2][1])] == [False] * 3 + [
        True
    ]
