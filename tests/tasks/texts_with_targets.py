"""Small data sets and jobs for texts whose targets are no single label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job, section_of
from tests.tiny import WORDS, write_model

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
KEYS: dict[str, dict[str, Any]] = {
    "multi-label-classification": {"label": "topics", "labels": ["good", "food", "cold"]},
    "token-classification": {"text": "words", "label": "kinds", "labels": ["mood", "time", "other"]},
    "text-regression": {"number": "score", "range": [0.0, 8.0]},
}
KINDS = {"good": "mood", "bad": "mood", "fine": "mood", "day": "time", "night": "time", "late": "time"}


def write_texts(path: Path, *, rows: int = 160) -> Path:
    """Texts of the tiny model's words, with what follows from each word."""
    random = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(rows):
            words = [str(word) for word in random.choice(WORDS, size=random.integers(2, 7))]
            row = {
                "text": " ".join(words),
                "words": words,
                "kinds": [KINDS.get(word, "other") for word in words],
                "topics": sorted({"good", "food", "cold"} & set(words)),
                "score": 8 * sum(word in KINDS for word in words) / len(words),
            }
            file.write(f"{json.dumps(row)}\n")
    return path


def make_job(task: str, folder: Path, **changes: Any) -> Job:
    """A job of two short rounds at two sites, with the tiny model."""
    model, source = folder / "model", folder / "texts.jsonl"
    if not model.exists():
        write_model(model)
    if not source.exists():
        write_texts(source)
    data = {
        "source": str(source),
        "max_length": 8,
        "holdout": 0.2,
        **KEYS.get(task, {}),
        **changes.pop("data", {}),
    }
    table = {
        "name": "texts",
        "task": task,
        "model": {"source": str(model), **changes.pop("model", {})},
        "adapter": {"rank": 2, "target_modules": ["query", "value"]},
        "data": {key: value for key, value in data.items() if value is not None},
        "federation": {"sites": 2},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 8, "physical_batch_size": 8},
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
    }
    return checked_job(parse_job(table | changes))


def adapt(job: Job) -> AdaptedModel:
    """The job's model with its adapter, which is that of the first round."""
    base = load_base_model(job, labels=section_of(job).classes, device=CPU)
    return AdaptedModel(base, job=job, device=CPU)
