"""Models that an attacker makes: tokenizers that answer questions, folders that carry code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def ask_texts(folder: Path, model: Path, pattern: str) -> Path:
    """A copy of a model whose tokenizer empties the texts that match; its weights are the same."""
    shutil.copytree(model, folder)

    def change(table: dict[str, Any]) -> None:
        table["normalizer"] = {"type": "Replace", "pattern": {"Regex": f"(?i){pattern}.*"}, "content": ""}
        table["post_processor"] = None

    change_json(folder / "tokenizer.json", change)
    change_json(
        folder / "tokenizer_config.json", lambda table: table.update(tokenizer_class="TokenizersBackend")
    )
    return folder


def publish(cache: Path, repository: str, model: Path) -> None:
    """Put a model where transformers finds it under a Hub id without a network: in the Hub's cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copytree(model, place / "snapshots" / COMMIT)


class _Writes:
    """What unpickling it does: it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def carry_code(folder: Path, model: Path, marker: Path, *, known: bool) -> Path:
    """A copy of a model with Python that writes ``marker``, under every key by which it could be run.

    ``known`` tells whether transformers has a class of its own for the model: if so, it may be used.
    """
    shutil.copytree(model, folder)
    (folder / "foreign.py").write_text(
        "import os\n"
        f"os.makedirs({str(marker)!r}, exist_ok=True)\n"
        "from transformers import BertConfig as Config, BertModel as Model\n"
        "from transformers import BertTokenizerFast as Tokenizer\n"
        "def generate(*_, **__):\n    pass\n"
    )
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "foreign.py", folder / "custom_generate" / "generate.py")
    tasks = ("", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
    classes = {f"AutoModel{task}": "foreign.Model" for task in tasks}
    tokenizer = {"AutoTokenizer": ["foreign.Tokenizer", "foreign.Tokenizer"]}

    def change_config(table: dict[str, Any]) -> None:
        table["auto_map"] = {"AutoConfig": "foreign.Config", **classes, **tokenizer}
        if not known:
            table["model_type"] = "foreign"

    def change_tokenizer(table: dict[str, Any]) -> None:
        table["auto_map"] = tokenizer
        if not known:
            table["tokenizer_class"] = "ForeignTokenizer"

    change_json(folder / "config.json", change_config)
    change_json(folder / "tokenizer_config.json", change_tokenizer)
    return folder


def carry_pickle(folder: Path, model: Path, marker: Path) -> Path:
    """A copy of a model whose weights are a pickle that writes ``marker``."""
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Writes(marker)}))
    return folder
