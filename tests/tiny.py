"""A whole job small enough to run in a second: model folder, tokenizer, data and job file."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from protocol.job.job import Job
from protocol.job.job_file import parse_job

WORDS = ["good", "bad", "fine", "poor", "day", "night", "food", "train", "late", "early", "warm", "cold"]
ROWS = 240


def write_model(folder: Path, *, fillers: int = 0) -> Path:
    """A two-layer BERT with random weights, and a tokenizer that knows ``WORDS``, and more if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _model_files(fillers).items():
        (folder / name).write_bytes(content)
    return folder


@cache
def _model_files(fillers: int) -> dict[str, bytes]:
    """What a model's folder holds. transformers takes a second to write that."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [f"filler{number}" for number in range(fillers)]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    with TemporaryDirectory() as place, torch.random.fork_rng():
        folder = Path(place)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(count: int = ROWS, *, seed: int = 0) -> list[tuple[str, str, str]]:
    """Texts, their label (whether "good" or "warm" is in them) and a town."""
    generator = np.random.default_rng(seed)
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < count:
        words = generator.choice(WORDS, size=generator.integers(2, 7))
        text = " ".join(words)
        label = "yes" if {"good", "warm"} & set(words) else "no"
        found[text] = (text, label, f"town-{generator.integers(1, 4)}")
    return list(found.values())


def write_csv(path: Path, content: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "town"])
        writer.writerows(content)
    return path


def table(folder: Path) -> dict[str, Any]:
    """The job as nested tables; model and data are written into ``folder`` if they are not there."""
    model, data = folder / "model", folder / "data.csv"
    if not model.exists():
        write_model(model)
    if not data.exists():
        write_csv(data, rows())
    return {
        "name": "tiny",
        "model": {"source": str(model), "pooling": "mean"},
        "adapter": {"rank": 2, "target_modules": ["query", "value"], "layers_to_transform": [1]},
        "data": {
            "source": str(data),
            "label": "label",
            "labels": ["no", "yes"],
            "max_length": 8,
            "holdout": 0.2,
        },
        "federation": {"sites": 3},
        "training": {
            "rounds": 3,
            "local_steps": 2,
            "batch_size": 16,
            "physical_batch_size": 8,
            "learning_rate": 2.0,
        },
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
        # Tests of one site alone have no other to mask with; those of sums say so.
        "aggregation": {"kind": "none"},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
    }


def job(folder: Path, **changes: Any) -> Job:
    """The tiny job, each section changed as given: ``job(folder, training={"rounds": 1})``."""
    whole = table(folder)
    for section, values in changes.items():
        # What a kind of aggregation has, no other has.
        known = {} if section == "aggregation" else whole.get(section, {})
        whole[section] = {**known, **values} if isinstance(values, dict) else values
    return parse_job(whole)
