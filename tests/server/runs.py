"""Run folders with made-up rounds, for what reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest
from protocol.job.strategy import State
from runs.comparison import save_labels
from runs.run_folder import RoundRecord, RunFolder

LAYOUT = AdapterLayout(slots=(TensorSlot(name="b", shape=(2, 2), trained=True),))
STATE = State(adapter=np.zeros(4, np.float32))


def make_job(**sections: dict[str, Any]) -> Job:
    table: dict[str, Any] = {
        "name": "tweets",
        "model": {"source": "somewhere"},
        "adapter": {"target_modules": ["query"]},
        "data": {"source": "tweets.csv", "label": "mood", "labels": ["bad", "good"]},
        "training": {"rounds": 2},
        # What reads a run reads one that was summed without masks; tests of sums say so.
        "aggregation": {"kind": "none"},
    }
    for name, section in sections.items():
        # What a kind of aggregation has, no other has.
        known = {} if name == "aggregation" else table.get(name, {})
        table[name] = section if not isinstance(section, dict) else known | section
    return parse_job(table)


def make_record(number: int, **changes: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "round": number,
        "loss": 1.0 / number,
        "epsilon": {"north": 1.5 * number, "south": 1.5 * number},
        "bytes_up": 12_300,
        "bytes_down": 45_600,
        "seconds": 40.0,
        "training_seconds": 30.0,
    }
    accuracy = changes.pop("accuracy", 0.5 + 0.087 * number)
    values |= changes
    loss = values["loss"]
    measures = {"loss": loss, "accuracy": accuracy, "perplexity": math.exp(loss)}
    return RoundRecord(**{"measures": measures} | values)


def make_run(
    path: Path,
    job: Job | None = None,
    records: list[RoundRecord] | None = None,
    **facts: Any,
) -> RunFolder:
    job = job or make_job()
    labels = ("bad", "good") if job.task == "sequence-classification" else ()
    manifest = Manifest(
        run=path.name, job=job, cohort=2, labels=labels, model_digest="ab" * 32, layout_digest=LAYOUT.digest
    )
    known = {
        "versions": {"confide": "0.3.0", "torch": "2"},
        "device": "cpu, float32",
        "model_digest": "ab" * 32,
        "trained_parameters": 7299,
        "adapter_parameters": 13443,
        "frozen_layers_below": 4,
        "labels": list(labels),
        "held_out_examples": 1000,
        "examples_by_site": {"north": 720, "south": 721},
        "majority": 0.424,
    }
    folder = RunFolder.create(
        path,
        manifest=manifest,
        facts=known | facts,
        layout=LAYOUT,
        state=STATE,
        adapter_config={},
    )
    for record in [make_record(1), make_record(2)] if records is None else records:
        folder.finish_round(record, LAYOUT, STATE)
    return folder


def make_compared(path: Path, *, free: int = 2, alone: int = 2) -> RunFolder:
    """A run, the same without privacy, and two sites alone, with as many finished rounds as said."""
    folder = make_run(path / "run")
    none = make_job(privacy={"mechanism": "none"})
    records = [make_record(n, accuracy=0.7, epsilon={"north": None}) for n in range(1, free + 1)]
    make_run(folder.path / "compare" / "without-privacy", none, records)
    for site, accuracy in (("north", 0.55), ("south", 0.45)):
        records = [make_record(n, accuracy=accuracy, epsilon={site: 2.9}) for n in range(1, alone + 1)]
        place = folder.path / "compare" / "alone" / site
        make_run(place, None, records, examples_by_site={site: 720})
    save_labels(folder, {"north": {"bad": 700, "good": 20}, "south": {"bad": 0, "good": 720}})
    return folder
