"""The held-out measures of a round: which there are, their values, and how they are written."""

from __future__ import annotations

import math
from typing import Literal

from protocol.job.job import Task
from runs.formats import format_percent
from runs.run_folder import RoundRecord

Measure = Literal["loss", "accuracy", "perplexity"]


def main_measure(task: Task) -> Measure:
    """The measure that a task is judged by."""
    return "perplexity" if task == "causal-lm" else "accuracy"


def measure(record: RoundRecord, name: Measure) -> float:
    """One held-out number of a round; perplexity is exp(loss) a token."""
    if name == "perplexity":
        return math.exp(min(record.loss, 700.0))
    return record.accuracy if name == "accuracy" else record.loss


def format_measure(record: RoundRecord, name: Measure) -> str:
    """A round's held-out number for people: a percentage, nats, or a perplexity."""
    value = measure(record, name)
    if name == "accuracy":
        return format_percent(value)
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}" if value < 1e6 else f"{value:.3g}"
