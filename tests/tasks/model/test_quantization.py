"""Base models in four and eight bits: what is packed, what it is known by, and what is trained on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tasks.model.quantization
from client.training.gradient_check import choose_gradients
from client.training.gradients import OneByOne, losses
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError, UserError
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.models import random_adapter

KINDS = pytest.mark.parametrize("kind", ["nf4", "int8"])


def world(folder: Path, kind: str | None, **changes: Any) -> World:
    model: dict[str, Any] = {} if kind is None else {"quantization": kind}
    return World(tiny.job(folder, model=model, **changes))


def layer(found: World) -> nn.Module:
    model = found.adapted.peft.get_base_model()
    return model.get_submodule("bert.encoder.layer.0.attention.output.dense")


@KINDS
def test_linear_layers_are_packed_and_the_head_is_not(tiny_folder: Path, kind: str) -> None:
    plain, packed = world(tiny_folder, None), world(tiny_folder, kind)
    weight = layer(packed).weight
    if kind == "nf4":
        assert (weight.dtype, weight.numel()) == (torch.uint8, 16 * 16 // 2)
        assert layer(packed).scales.shape == (16 * 16 // 64,)
    else:
        assert (weight.dtype, weight.shape) == (torch.int8, (16, 16))
        assert layer(packed).scales.shape == (16,)
    heads = [p for name, p in packed.adapted.trained.items() if "lora" not in name]
    assert [p.dtype for p in heads] == [torch.float32, torch.float32]
    values = torch.linspace(-1, 1, 3 * 16).view(3, 16)
    with torch.no_grad():
        expected, found = layer(plain)(values), layer(packed)(values)
    off = float((found - expected).norm() / expected.norm())
    # A step of NF4 is up to 0.3 of a block's largest weight, one of eight bits 1/127 of a row's.
    assert (0.005 < off < 0.3) if kind == "nf4" else (0.0001 < off < 0.02)


@KINDS
def test_the_digest_is_of_the_packed_model_and_repeats(tiny_folder: Path, kind: str) -> None:
    digests = [world(tiny_folder, one).adapted.model_digest for one in (kind, kind, None)]
    assert digests[0] == digests[1] != digests[2]


@KINDS
def test_a_packed_bit_is_in_the_digest(
    tiny_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = world(tiny_folder, kind).adapted.model_digest
    pack = tasks.model.quantization.quantize

    def changed(job: Any, model: Any, *, keep: Any) -> None:
        pack(job, model, keep=keep)
        weight = model.get_submodule("bert.encoder.layer.0.attention.output.dense").weight
        weight.view(-1)[0] ^= 1

    monkeypatch.setattr("tasks.model.base_model.quantize", changed)
    assert world(tiny_folder, kind).adapted.model_digest != expected


@KINDS
def test_an_examples_gradient_is_its_own(tiny_folder: Path, kind: str) -> None:
    found = world(tiny_folder, kind, strategy={"name": "fedit"})
    adapted, examples = found.adapted, found.examples("site-1").take(np.arange(4))
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    check_privacy_unit(method, adapted.probe())
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    batch = examples.batch(np.arange(4))
    together = method.backward(batch, losses(adapted))
    alone = OneByOne(adapted).backward(batch, losses(adapted))
    size = max(float(rows.norm()) for rows in alone.values())
    for name, rows in alone.items():
        assert float((together[name] - rows).norm()) <= 1e-5 * size, name


@KINDS
@pytest.mark.exhaustive(but=1)
def test_a_run_trains_exports_its_adapter_and_refuses_to_merge(
    tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    job = tiny.job(tiny_folder, model={"quantization": kind}, aggregation={"kind": "masks"})
    run = simulate(job, runs=tmp_path)
    folder = RunFolder.open(run.folder)
    export_adapter(folder, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    with pytest.raises(UserError, match=r"model\.quantization=.* has no whole weights"):
        export_merged(folder, tmp_path / "merged")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"adapter": {"init": "pissa"}}, r'expected adapter\.init="orthonormal", got "pissa"'),
        ({"strategy": {"name": "fedsb"}}, r'another strategy\.name than "fedsb"'),
        ({"strategy": {"name": "flora"}}, r'another strategy\.name than "flora"'),
    ],
    ids=["pissa", "fedsb", "flora"],
)
def test_what_reads_or_moves_weights_is_refused(
    tiny_folder: Path, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        world(tiny_folder, "nf4", **sections)


def test_a_missing_package_is_named(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: pip install 'confide\[quantized\]'"):
        world(tiny_folder, "nf4")
