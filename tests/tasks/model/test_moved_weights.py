"""Base weights that a rule moves: which cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from privacy.errors import ModelError
from protocol.job.layout import RESIDUAL
from tasks.model.moved_weights import MovedWeights
from tests.tasks.model.checkpoints import GPT2, adapt, write_checkpoint


def adapted(folder: Path) -> object:
    source = write_checkpoint(folder / "gpt2", "GPT2Model", **(GPT2 | {"pad_token_id": 0}))
    return adapt(source, targets=("c_attn",), strategy={"name": "ffa"}).peft


def test_a_rule_without_a_residual_moves_nothing(tmp_path: Path) -> None:
    moved = MovedWeights(adapted(tmp_path), adapter="default", wanted=False)
    assert moved.shapes == {}


def test_layers_that_keep_their_weight_the_other_way_round_get_it_so(tmp_path: Path) -> None:
    peft = adapted(tmp_path)
    moved = MovedWeights(peft, adapter="default", wanted=True)
    name, shape = next(iter(moved.shapes.items()))
    assert shape == (3 * GPT2["n_embd"], GPT2["n_embd"])
    weight = peft.get_submodule(name.removesuffix(RESIDUAL)).get_base_layer().weight
    before = weight.detach().numpy().copy()
    residual = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    given = {other: np.zeros(size, np.float32) for other, size in moved.shapes.items()} | {name: residual}
    moved.put(given)
    scale = np.float32(4.0 / 2)  # the job's alpha by its rank
    assert np.array_equal(weight.detach().numpy(), before + scale * residual.T)
    residual[:] = 7.0  # what was given may change afterwards
    assert not np.array_equal(moved.residuals[name], residual)


def test_a_shared_weight_is_refused(tmp_path: Path) -> None:
    peft = adapted(tmp_path)
    first, second = (
        layer.get_base_layer() for name, layer in peft.named_modules() if name.endswith("attn.c_attn")
    )
    second.weight = first.weight
    with pytest.raises(ModelError, match="shares its weight with another layer"):
        MovedWeights(peft, adapter="default", wanted=True)


def test_a_packed_weight_is_refused(tmp_path: Path) -> None:
    peft = adapted(tmp_path)
    name = next(name for name, _ in peft.named_modules() if name.endswith("attn.c_attn"))
    layer = peft.get_submodule(name).get_base_layer()
    packed = torch.zeros((layer.weight.numel() // 2, 1), dtype=torch.uint8)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ModelError, match="has a packed weight"):
        MovedWeights(peft, adapter="default", wanted=True)
