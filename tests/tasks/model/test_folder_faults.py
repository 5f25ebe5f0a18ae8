"""A model's folder that cannot be loaded: one sentence of what is wrong with it, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from privacy.errors import ModelError
from tasks.model.base_model import load_base_model
from tests import tiny
from tests.tasks.model.checkpoints import CPU, write_tokenizer

Change = Callable[[Path], object]


def put(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def drop(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


def configure(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def part(folder: Path) -> None:
    """Weights in two parts, of which the second never came."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model-1.safetensors", metadata={"format": "pt"})
    named = dict.fromkeys(weights, "model-1.safetensors") | {"x": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))


def break_index(folder: Path) -> None:
    part(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../gone")


def wrap(folder: Path) -> None:
    """A folder of folders, as some programs save models."""
    inner = folder / "best"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(inner / path.name)


CASES: dict[str, tuple[Change, str]] = {
    "no config": (drop("config.json"), "no config.json there: name the folder that has a model's config"),
    "a folder of one": (wrap, "no config.json there: name one of the folders in it, such as 'best'"),
    "GGUF alone": (
        lambda folder: (drop("config.json")(folder), put("m.gguf", "GGUF")(folder)),
        "no config.json there: for its GGUF weights set model.gguf='m.gguf'",
    ),
    "GGUF beside a config": (
        rename("model.safetensors", "m.gguf"),
        "no weights there in safetensors: for its GGUF weights set model.gguf='m.gguf'",
    ),
    "a config cut off": (put("config.json", "{"), "config.json is no JSON object in UTF-8"),
    "a config that is a list": (put("config.json", "[]"), "config.json is no JSON object in UTF-8"),
    "a kind that nobody knows": (configure(model_type="bertt"), "model_type='bertt', which transformers"),
    "no kind": (configure(model_type=None), "model_type=None, which transformers"),
    "a kind that is no word": (configure(model_type=["bert"]), "model_type=['bert'], which transformers"),
    "quantized": (
        configure(quantization_config={"quant_method": "gptq", "bits": 4}),
        "its weights are quantized (quant_method='gptq'), and they cannot be read so here",
    ),
    "a value of another type": (
        configure(hidden_size="16"),
        "could not be loaded: Validation error for field 'hidden_size': TypeError: Field 'hidden_size' "
        "expected int",
    ),
    "a function that nobody has": (
        configure(hidden_act="gellu"),
        "could not be loaded: KeyError: 'gellu'",
    ),
    "no weights": (drop("model.safetensors"), "no weights there: expected model.safetensors, or its parts"),
    "weights of another name": (
        rename("model.safetensors", "weights.safetensors"),
        "model.safetensors.index.json in place of weights.safetensors",
    ),
    "weights for another program": (
        rename("model.safetensors", "tf_model.h5"),
        "model.safetensors.index.json in place of tf_model.h5",
    ),
    "a part that never came": (
        part,
        ": model-2.safetensors named by model.safetensors.index.json, and not there: fetch it",
    ),
    "an index of nothing": (break_index, "model.safetensors.index.json names no files of weights"),
    "a link to nothing": (link, "model.safetensors is a link to nothing: fetch the file"),
    "words of a kind that the family has not": (
        lambda folder: (write_tokenizer(folder), drop("tokenizer_config.json")(folder)),
        "no tokenizer_config.json there: copy the model's own",
    ),
    "a tokenizer cut off": (put("tokenizer.json", "{"), "tokenizer.json is no JSON object in UTF-8"),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_wrong_with_a_folder_is_one_sentence(what: str, tiny_folder: Path, tmp_path: Path) -> None:
    change, words = CASES[what]
    folder = shutil.copytree(tiny_folder / "model", tmp_path / "model")
    change(folder)
    job = tiny.job(tiny_folder, model={"source": str(folder)})
    with pytest.raises(ModelError) as refused:
        load_base_model(job, labels=("no", "yes"), device=CPU)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"model.source={str(folder)!r}")
    assert "\n" not in str(refused.value)
