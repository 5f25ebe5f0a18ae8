"""A task of tests alone: which label a row of numbers has. All that it needs is in this file."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from tasks.data.dense_examples import DenseExamples
from tasks.data.read_table import read_table
from tasks.data.rows import NO_CONTENT, NO_LABEL, Rows
from tasks.data.shapes import Sizes
from tasks.measures import ACCURACY, LOSS
from tasks.model.base_model import BaseModel
from tasks.task import Encoded, Outcome, TaskKeys, Units

WEIGHTS = "net.safetensors"


class Net(nn.Module):
    def __init__(self, columns: int, labels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(columns, 16), nn.Linear(16, 16)
        self.classifier = nn.Linear(16, labels)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.second(self.first(numbers).tanh()).tanh())
        return logits


class Keys(TaskKeys):
    columns: list[str]
    label: str
    labels: list[str]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels)


class NumberTable:
    name, about = "number-table", "which label a row of numbers has"
    labelled, headed = True, True
    pretrained, drawn = True, False
    units, measures = Units(example="row", size="rows"), (ACCURACY, LOSS)
    Section = Columns = Keys

    def refuses(self, job: Any, section: Keys) -> str | None:
        return None if section.columns else "data.columns: expected one at least"

    def read(self, data: Any, columns: Keys) -> Rows:
        table = read_table(data, columns=[*columns.columns, columns.label])
        cells = [table.column(name, key="data.columns") for name in columns.columns]
        contents = tuple(map(numbers, zip(*cells, strict=True)))
        return Rows(contents=contents, labels=table.column(columns.label, key="data.label"))

    def digest(self, content: tuple[float, ...] | None) -> bytes:
        return hashlib.sha256(repr(content).encode()).digest()

    def load(self, job: Any, section: Keys, *, labels: tuple[str, ...], device: Any) -> BaseModel:
        net, path = Net(len(section.columns), len(labels)), Path(job.model.source) / WEIGHTS
        net.load_state_dict(load_file(path), strict=False)
        for parameter in net.classifier.parameters():
            nn.init.zeros_(parameter)
        return BaseModel(
            model=net.requires_grad_(False),
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
            reader=len(section.columns),
            head=("classifier",),
            peft_type=None,
            limit=None,
        )

    def open_reader(self, source: str, columns: Keys) -> int:
        return len(columns.columns)

    def sizes(self, base: BaseModel, section: Keys) -> Sizes:
        return Sizes(least=1, most=1, public=(1,))

    def encode(self, reader: int, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        known = {label: number for number, label in enumerate(labels)}
        found = [known.get(label or "") for label in rows.labels or ()]
        empty = np.array([content is None for content in rows.contents])
        odd = ~empty & np.array([bool(labels) and number is None for number in found])
        examples = DenseExamples(
            arrays={"numbers": np.array([c or (0.0,) * reader for c in rows.contents], np.float32)},
            labels=np.array([number or 0 for number in found], np.int64) if labels else None,
            blank=empty | odd,
        )
        blank = {why: tuple(np.flatnonzero(at)) for why, at in ((NO_CONTENT, empty), (NO_LABEL, odd))}
        return Encoded(examples=examples, blank={why: rows for why, rows in blank.items() if rows})

    def made_up(self, adapted: Any, random: np.random.Generator, sizes: np.ndarray) -> DenseExamples:
        numbers = random.standard_normal((len(sizes), adapted.base.reader)).astype(np.float32)
        labels = random.integers(0, adapted.base.model.classifier.out_features, len(sizes))
        return DenseExamples(arrays={"numbers": numbers}, labels=labels, blank=sizes == 0)

    def forward(self, adapted: Any, batch: Any) -> Outcome:
        with adapted.device.autocast():
            logits = adapted.peft(batch.inputs["numbers"]).float()
        labels = batch.inputs["labels"]
        return Outcome(
            losses=functional.cross_entropy(logits, labels, reduction="none"),
            correct=(logits.argmax(-1) == labels).long(),
            counted=torch.ones_like(labels),
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        save_file(merged.state_dict(), folder / WEIGHTS)


def numbers(cells: tuple[str | None, ...]) -> tuple[float, ...] | None:
    try:
        found = tuple(float(cell or "") for cell in cells)
    except ValueError:
        return None
    return found if all(abs(number) < 1e6 and math.isfinite(number) for number in found) else None


TASK = NumberTable()
