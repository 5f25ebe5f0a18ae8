"""Jobs on texts of made-up words, with models that know them: labels can be learned by heart alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tests.tasks.model.checkpoints import DECODER, ENCODER, VOCABULARY, write_checkpoint, write_tokenizer

WORDS = [f"word{number}" for number in range(300)]
TEXTS = 240


def write_words(folder: Path) -> Path:
    """Both models, and texts of six different words of 300, with labels that these say nothing of."""
    sizes = {"vocab_size": len(VOCABULARY) + len(WORDS), "hidden_size": 32}
    # Its layers are close to the identity, as those of a trained sentence encoder hide few words.
    write_checkpoint(
        folder / "encoder", "BertModel", **ENCODER | sizes | {"hidden_size": 64, "initializer_range": 0.02}
    )
    write_checkpoint(folder / "decoder", "LlamaForCausalLM", **DECODER | sizes | {"head_dim": 16})
    for name in ("encoder", "decoder"):
        write_tokenizer(folder / name, extra=tuple(WORDS))
    generator = np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(TEXTS):
            words = " ".join(generator.choice(WORDS, 6, replace=False))
            writer.writerow([words, ["no", "yes"][number % 2]])
    return folder


def encoder_job(folder: Path, **changes: Any) -> Job:
    """A classifier on the encoder; sections changed as given."""
    return _job(
        {
            "task": "sequence-classification",
            "model": {"source": str(folder / "encoder"), "pooling": "mean"},
            "adapter": {"rank": 4, "target_modules": ["query", "value"], "layers_to_transform": [1]},
            "data": {"label": "label", "labels": ["no", "yes"], "max_length": 8},
        },
        folder,
        changes,
    )


def decoder_job(folder: Path, *, rank: int, layers: list[int], **changes: Any) -> Job:
    """A language model; sections changed as given."""
    adapter = {"rank": rank, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": layers}
    source = {"source": str(folder / "decoder")}
    data = {"max_length": 8}
    return _job({"task": "causal-lm", "model": source, "adapter": adapter, "data": data}, folder, changes)


def _job(table: dict[str, Any], folder: Path, changes: dict[str, Any]) -> Job:
    whole: dict[str, Any] = {
        "name": "words",
        "federation": {"sites": 3},
        "training": {"rounds": 1, "local_steps": 1, "batch_size": 16, "physical_batch_size": 8},
        "privacy": {"epsilon": 3.0, "delta": 1e-3},
        "aggregation": {"kind": "none"},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
    }
    whole |= table
    whole["data"] |= {"source": str(folder / "data.csv"), "holdout": 0.1}
    for section, values in changes.items():
        whole[section] = {**whole.get(section, {}), **values}
    return parse_job(whole)
