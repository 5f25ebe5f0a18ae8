"""A tiny byte-level tokenizer, which cuts text as GPT-2's, SmolLM's or Llama 3's does, and a tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from runs.quantized.gguf_vocabulary import LLAMA3_SPLIT

SPECIAL = ["<pad>", "<s>", "</s>"]
MERGES = [("t", "r"), ("a", "i"), ("ai", "n"), ("tr", "ain"), ("Ġ", "train"), ("o", "o"), ("Ġ", "d")]
_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZE = len(SPECIAL) + len(_LETTERS) + len(MERGES) + 1 + 3  # one of the user's, and three that are unused


def _bytes(*, regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def cutters() -> dict[str, Any]:
    """Ways to cut text by the name that llama.cpp has for them."""
    return {
        "gpt-2": _bytes(regex=True),
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), _bytes(regex=True)]
        ),
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
                _bytes(regex=False),
            ]
        ),
    }


def byte_tokenizer(cutter: Any, *, lower: bool = False) -> Any:
    """A tokenizer of transformers' with a few merges, and special tokens first."""
    tokens = [*SPECIAL, *_LETTERS, *(one + other for one, other in MERGES)]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=MERGES)
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = cutter, decoders.ByteLevel()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    special = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def write_llama(folder: Path, *, tied: bool = False, cutter: Any = None, **config: Any) -> Path:
    """A two-layer Llama of width 32 with grouped queries, random weights and such a tokenizer."""
    kept = {
        "vocab_size": SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": tied,
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(kept | config)))
        # Norms of one would hide that they are written.
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        model.save_pretrained(folder)
    byte_tokenizer(cutter or cutters()["smollm"]).save_pretrained(folder)
    return folder
