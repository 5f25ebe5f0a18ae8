"""A family of models: how its tiny checkpoint is made, in the shape that hubs ship."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.families.reasons import Reason

# What a family's tokenizer is like. Most decoders that hubs ship have an end of text and no padding.
ENCODER, DECODER, PADDED, LETTERS = "encoder", "decoder", "decoder with padding", "letters"

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("good", "bad", "fine", "poor", "day", "night", "food", "train", "late", "early", "warm", "cold")

# The names that configs agree on. Weights are as wide as 0.2: the usual 0.02 is for wide models, in narrow
# ones it leaves every layer close to the identity.
SIZES: Mapping[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.2,
}
ABSENT = "absent"  # a size that a config does not have, or not under the common name


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table.

    ``saved`` is transformers' class that the checkpoint holds, made with ``options``; its config has
    ``sizes``. ``targets`` are the modules that a person would name first. ``refused`` says which trials end
    with a refusal, and why; ``one_by_one`` those where hooks do not serve; and ``kept`` whether what frozen
    layers make of an example can be kept.
    """

    name: str
    saved: str
    targets: tuple[str, ...]
    sizes: Mapping[str, Any]
    options: Mapping[str, Any]
    reader: str
    refused: Mapping[str, Reason]
    one_by_one: Collection[str]
    kept: bool

    def build(self, folder: Path) -> Path:
        """Write the checkpoint and its tokenizer into ``folder``."""
        import torch
        import transformers

        kind = getattr(transformers, self.saved)
        sizes = {name: size for name, size in {**SIZES, **self.sizes}.items() if size != ABSENT}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind(kind.config_class(**sizes), **self.options)
        model.save_pretrained(folder)
        _write_tokenizer(folder, reader=self.reader, padding=self.sizes.get("pad_token_id") or 0)
        return folder


def row(
    name: str,
    saved: str,
    targets: tuple[str, ...],
    *,
    reader: str = ENCODER,
    options: Mapping[str, Any] | None = None,
    refused: Mapping[str, Reason] | None = None,
    one_by_one: Collection[str] = (),
    kept: bool = True,
    **sizes: Any,
) -> Family:
    """A family whose config has ``sizes`` beside, or other than, the common ones."""
    return Family(
        name=name,
        saved=saved,
        targets=targets,
        sizes=sizes,
        options=options or {},
        reader=reader,
        refused=refused or {},
        one_by_one=one_by_one,
        kept=kept,
    )


def _write_tokenizer(folder: Path, *, reader: str, padding: int) -> None:
    """Words for tokens, or letters, for a family that has a tokenizer of its own kind."""
    special = list(SPECIAL)
    special[0], special[padding] = special[padding], special[0]
    tokenizer = _of_letters(special) if reader == LETTERS else _of_words(special)
    if reader == ENCODER:
        around = [("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=around
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    table: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer" if reader == LETTERS else "TokenizersBackend",
        "model_max_length": 32,
        **{"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"},
    }
    if reader in (ENCODER, PADDED):
        table |= {"pad_token": "[PAD]"}
    if reader == ENCODER:
        table |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(table), encoding="utf-8")


def _of_words(special: list[str]) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _of_letters(special: list[str]) -> Tokenizer:
    letters = [*sorted(set("".join(WORDS))), "Ġ"]  # as byte-level tokenizers write a space
    vocabulary = {token: number for number, token in enumerate((*special, *letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer
