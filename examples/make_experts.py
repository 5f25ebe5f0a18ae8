"""Makes what ``experts.toml`` trains: a small mixture of experts, and three clinics' notes, all made up.

The model has Qwen3-MoE's class: 2 layers of 8 experts, of which each token reaches 2. It learns a little
English from sentences about the weather, so that there is something for an adapter to adapt. The notes are
other sentences.

Run: python examples/make_experts.py
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "experts"
STEPS, BATCH = 150, 64

# Sentences are one word of each column, some columns having several ways to say a thing.
WEATHER = (
    ("the", "this", "that"),
    ("morning", "evening", "day", "night"),
    ("was", "is", "stays"),
    ("cold", "warm", "wet", "dry", "clear"),
    ("and", "but"),
    ("quiet", "windy", "grey", "bright"),
    ("in", "near"),
    ("the", "this", "that"),
    ("north", "south", "valley", "harbour"),
)
NOTES = (
    ("patient", "man", "woman", "child"),
    ("with", "without"),
    ("warm", "cold", "dry", "wet"),
    ("skin", "cough", "hands"),
    ("since", "for"),
    ("this", "that", "the"),
    ("morning", "evening", "night", "day"),
    ("seen", "called", "sent"),
    ("in", "near"),
    ("the",),
    ("ward", "office", "harbour"),
)
SPECIAL = ("[PAD]", "[UNK]", "[END]")


def sentences(columns: tuple[tuple[str, ...], ...], count: int, *, seed: int) -> list[str]:
    """So many different sentences, drawn from all that there are."""
    every = [" ".join(words) for words in itertools.product(*columns)]
    chosen = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[number] for number in chosen]


def write_tokenizer(folder: Path) -> dict[str, int]:
    """A token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for column in (*WEATHER, *NOTES) for word in column})
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = {
        "tokenizer_class": "TokenizersBackend",
        "model_max_length": 32,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(table), encoding="utf-8")
    return vocabulary


def write_model(folder: Path, vocabulary: dict[str, int]) -> float:
    """The mixture, after it has read about the weather; what its last batch's loss was, in nats a token."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=vocabulary["[END]"],
    )
    model = Qwen3MoeForCausalLM(config).train()
    texts = [[vocabulary[word] for word in text.split()] for text in sentences(WEATHER, 4000, seed=1)]
    tokens = torch.tensor(texts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch = tokens[torch.arange(step * BATCH, (step + 1) * BATCH) % len(tokens)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return float(loss.detach())


def write_notes(path: Path) -> None:
    """Three clinics' notes."""
    texts = sentences(NOTES, 2400, seed=2)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clinic", "note"])
        writer.writerows([("hill", "lake", "town")[number % 3], text] for number, text in enumerate(texts))


def main() -> None:
    """Write all of it beside this file."""
    model = FOLDER / "model"
    model.mkdir(parents=True, exist_ok=True)
    loss = write_model(model, write_tokenizer(model))
    write_notes(FOLDER / "notes.csv")
    print(f"{model}: 2 layers of 8 experts, loss {loss:.2f} nats a token on sentences about the weather")
    print(f"{FOLDER / 'notes.csv'}: 2,400 notes of three clinics")
    print("Now: confide simulate examples/experts.toml")


if __name__ == "__main__":
    main()
