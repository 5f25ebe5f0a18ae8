"""What is wrong with a base model's folder, found once it could not be loaded.

transformers says so in words of its own, which name neither what to do nor, often, the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol.plain_text import quoted, quoted_some, some

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
# Weights in files that other programs write.
_OTHERS = ("*.safetensors", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.npz")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


def find_fault(folder: Path, *, gguf: str | None) -> str | None:
    """What is wrong with the files of a folder and what to do; None if they look whole.

    ``gguf`` is the file of it that the job names.
    """
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() and not entry.exists():
            return f"{entry.name} is a link to nothing: fetch the file that it stands for"
    if gguf is not None:
        return _gguf_fault(folder, gguf)
    if not (folder / _CONFIG).is_file():
        return f"no {_CONFIG} there: {_where_else(folder)}"
    config = _read_object(folder / _CONFIG)
    if config is None:
        return f"{_CONFIG} is no JSON object in UTF-8: take the one that belongs to the weights"
    return _config_fault(config) or _weights_fault(folder, config)


def find_tokenizer_fault(folder: Path) -> str | None:
    """The same of a tokenizer's files."""
    for name in _TOKENIZERS:
        path = folder / name
        if path.is_file() and _read_object(path) is None:
            return f"{name} is no JSON object in UTF-8: fetch it again"
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        return f"no tokenizer there: copy the model's {' and '.join(_TOKENIZERS)}"
    lacking = [name for name in _TOKENIZERS if not (folder / name).is_file()]
    return f"no {lacking[0]} there: copy the model's own" if lacking else None


def _gguf_fault(folder: Path, gguf: str) -> str | None:
    if (folder / gguf).is_file():
        return None
    found = sorted(path.name for path in folder.glob("*.gguf"))
    return f"no {quoted(gguf)} there: set model.gguf to one of {quoted_some(found) or 'its files'}"


def _where_else(folder: Path) -> str:
    """What a person may have meant by a folder without a config."""
    packed = sorted(path.name for path in folder.glob("*.gguf"))
    if packed:
        return f"for its GGUF weights set model.gguf={quoted(packed[0])}"
    inner = sorted(path.parent.name for path in folder.glob(f"*/{_CONFIG}"))
    if inner:
        return f"name one of the folders in it, such as {quoted(inner[0])}"
    return "name the folder that has a model's config, tokenizer and weights"


def _config_fault(config: dict[str, Any]) -> str | None:
    from transformers import CONFIG_MAPPING, __version__

    kind = config.get("model_type")
    if "auto_map" not in config and not (isinstance(kind, str) and kind in CONFIG_MAPPING):
        return (
            f"{_CONFIG} has model_type={quoted(kind)}, which transformers {__version__} does not know: "
            "correct it, or choose another model"
        )
    plan = config.get("quantization_config")
    if plan is not None:
        method = plan.get("quant_method") if isinstance(plan, dict) else plan
        return (
            f"{_CONFIG} says that its weights are quantized (quant_method={quoted(method)}), and they "
            "cannot be read so here: name the model that they were made from"
        )
    return None


def _weights_fault(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / _WEIGHTS).is_file() or "transformers_weights" in config:
        return None
    if (folder / _INDEX).is_file():
        named = (_read_object(folder / _INDEX) or {}).get("weight_map")
        if not isinstance(named, dict) or not named:
            return f"{_INDEX} names no files of weights: fetch it again"
        lacking = sorted({str(file) for file in named.values() if not (folder / str(file)).is_file()})
        return f"{some(lacking)} named by {_INDEX}, and not there: fetch it" if lacking else None
    if any(folder.glob("*.gguf")):
        return f"no weights there in safetensors: {_where_else(folder)}"
    others = sorted({path.name for pattern in _OTHERS for path in folder.glob(pattern)})
    seen = f" in place of {some(others)}" if others else ""
    return f"no weights there: expected {_WEIGHTS}, or its parts and {_INDEX}{seen}"


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
