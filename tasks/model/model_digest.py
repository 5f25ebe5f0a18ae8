"""The digest of a model, whole: its weights, its config and its tokenizer.

What a text becomes is the tokenizer's doing, and what becomes of the tokens the config's as much as the
weights': whoever pins a model pins all three. The digest is of what was loaded and not of files, so that a
folder, a package and the Hub's cache with the same content have the same one. It leaves out where they lie
and which version of the library wrote them.
"""

from __future__ import annotations

import enum
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.canonical import canonical_json

# Attributes that say where something was loaded from, by which version, and how; and Python's own hash of a
# generation config that no file has, which is another in each process.
_VOLATILE = frozenset({"_commit_hash", "_name_or_path", "_original_object_hash", "transformers_version"})
_VOLATILE_OF_TOKENIZERS = frozenset(
    {
        "_commit_hash",
        "cache_dir",
        "deprecation_warnings",
        "files_loaded",
        "init_kwargs",  # taken apart by itself
        "is_local",
        "local_files_only",
        "name_or_path",
        "special_tokens_map_file",
        "tokenizer_file",
        "trust_remote_code",
        "verbose",
    }
)
# Each call of a tokenizer sets these anew.
_SET_BY_CALLS = ("truncation", "padding")


def model_digest(model: nn.Module, *, config: bytes, tokenizer: bytes) -> str:
    """SHA-256, as hex, of a model's weights with the content of its config and tokenizer as loaded."""
    digest = hashlib.sha256()
    for name, content in (("config", config), ("tokenizer", tokenizer), ("generation", _generation(model))):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def config_content(config: Any) -> bytes:
    """A config's values, those of configs inside it too, in one canonical form."""
    return canonical_json({"config": _plain(config)})


def tokenizer_content(tokenizer: Any) -> bytes:
    """All that decides what a tokenizer makes of a text, in one canonical form.

    The vocabulary, and what comes before and after it, as the Rust tokenizer states them, or as files for a
    tokenizer in Python; and the object's own values, such as special tokens, sides and the chat template.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary: Any = _saved_vocabulary(tokenizer)
    else:
        vocabulary = json.loads(backend.to_str())
        for name in _SET_BY_CALLS:
            vocabulary.pop(name, None)
    # By these names, such as vocab_file, a tokenizer remembers the paths that it was read from.
    without = _VOLATILE_OF_TOKENIZERS | frozenset(getattr(tokenizer, "vocab_files_names", {}))
    return canonical_json(
        {
            "class": _kind(tokenizer),
            "vocabulary": vocabulary,
            "values": _plain(_but(vars(tokenizer), without)),
            "arguments": _plain(_but(tokenizer.init_kwargs, without)),
        }
    )


def _generation(model: nn.Module) -> bytes:
    config = getattr(model, "generation_config", None)
    return b"" if config is None else config_content(config)


def _saved_vocabulary(tokenizer: Any) -> dict[str, str]:
    """SHA-256 of each file that a tokenizer in Python saves its vocabulary in, by the file's name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_vocabulary(folder, filename_prefix=None)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _but(values: Mapping[str, Any], without: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in without}


def _plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """A value as JSON of which two differ if the values do; objects by their class and their values.

    An object from a compiled library has no values to see here: it is known by its class alone.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in inside:
        return ["again"]

    def plain(item: Any) -> Any:
        return _plain(item, (*inside, id(value)))

    items: list[Any]
    if isinstance(value, Mapping):
        # Keys need not be strings, and 1 is not "1".
        kind, items = (
            "mapping",
            sorted(([plain(key), plain(item)] for key, item in value.items()), key=_order),
        )
    elif isinstance(value, list | tuple):
        kind, items = "list", [plain(item) for item in value]
    elif isinstance(value, set | frozenset):
        kind, items = "set", sorted((plain(item) for item in value), key=_order)
    elif isinstance(value, torch.dtype | bytes | enum.Enum):
        kind, items = _kind(value), [repr(value)]
    else:
        kind, items = _kind(value), [plain(_but(_values(value), _VOLATILE))]
    return [kind, *items]


def _values(value: Any) -> Mapping[str, Any]:
    from tokenizers import AddedToken

    if isinstance(value, AddedToken):
        state: dict[str, Any] = value.__getstate__()
        return state
    return getattr(value, "__dict__", {})


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _order(item: Any) -> bytes:
    return canonical_json({"": item})
