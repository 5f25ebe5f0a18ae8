"""A byte-level tokenizer as a GGUF file has it: tokens, what each is, merges, and how text is cut first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import UserError

# How Llama 3 cuts text before it merges bytes, as its tokenizer.json has it.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama.cpp's llama_token_type


@dataclass(frozen=True, kw_only=True)
class GgufVocabulary:
    """``tokens`` and llama.cpp's ``types`` of them by number, ``merges`` by rank, ``splits`` by its name.

    ``special`` are token numbers by llama.cpp's name for them, and ``begins`` says whether a text begins
    with the first of them.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    splits: str
    special: Mapping[str, int]
    begins: bool
    template: str | None


def read_vocabulary(tokenizer: Any, *, size: int) -> GgufVocabulary:
    """What a GGUF file has to know of a tokenizer of transformers', for a model of ``size`` tokens.

    Raises UserError for one that llama.cpp would not read alike.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    table = {} if backend is None else json.loads(backend.to_str())
    model = table.get("model", {})
    splits = _splits(table.get("pre_tokenizer")) if not table.get("normalizer") else None
    if model.get("type") != "BPE" or splits is None:
        raise UserError(
            f"--quantize gguf-q4: {type(tokenizer).__name__} is no byte-level tokenizer that cuts text as "
            "GPT-2's, SmolLM's or Llama 3's do, which alone are written so: use --quantize int8"
        )
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, _NORMAL
    for added in table["added_tokens"]:
        number = added["id"]
        tokens[number], types[number] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
    numbers = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    first = tokenizer("a")["input_ids"][:1]
    return GgufVocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(one if isinstance(one, str) else " ".join(one) for one in model["merges"]),
        splits=splits,
        special={name: number for name, number in numbers.items() if number is not None},
        begins=numbers["bos"] is not None and first == [numbers["bos"]],
        template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _splits(cutter: Mapping[str, Any] | None) -> str | None:
    """What llama.cpp calls a tokenizer.json's way to cut text, None for one that is not known here."""
    steps = (cutter or {}).get("pretokenizers", [cutter]) if cutter else []
    shapes = [_shape(step) for step in steps]
    known = {
        (("ByteLevel", True),): "gpt-2",
        (("Digits", True), ("ByteLevel", True)): "smollm",
        (("Split", LLAMA3_SPLIT), ("ByteLevel", False)): "llama-bpe",
    }
    return known.get(tuple(shapes))


def _shape(step: Mapping[str, Any]) -> tuple[str, Any]:
    kind = str(step["type"])
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return kind, step["use_regex"]
    if kind == "Digits":
        return kind, step["individual_digits"]
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return kind, step["pattern"].get("Regex")
    return kind, None
