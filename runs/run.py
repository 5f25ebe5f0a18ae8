"""A finished run, as commands and Python callers see it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privacy.errors import RunError
from protocol.processes.time_spent import Lap
from runs.assessment import Assessment, read_assessment
from runs.comparison import Comparison
from runs.metrics import Metrics
from runs.run_folder import RoundRecord, RunFolder
from runs.spent import last_epsilon
from tasks.label_scores import LabelScore


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run of a task: where it is, and what came out; ``metrics`` if the job asked for them.

    ``assessment`` says how sure the last adapters are, for tasks whose answers have probabilities.
    ``oddities`` are sentences about the data, and ``remarks`` say how the base model was made whole.
    ``profile`` says where its time went, if that was asked: a lap before the first round, one a round, and
    one after the last. ``comparison`` has the baselines, if these were asked for.
    """

    folder: Path
    task: str
    rounds: tuple[RoundRecord, ...]
    seconds: float
    metrics: Metrics | None = None
    assessment: Assessment | None = None
    remarks: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()
    profile: tuple[Lap, ...] = ()
    comparison: Comparison | None = None

    @property
    def adapter(self) -> Path:
        """The last adapter, in PEFT's own format."""
        return self.folder / "adapter"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @property
    def measures(self) -> dict[str, float]:
        """What the last adapter does on held-out examples, by the measure's name, such as "accuracy"."""
        return self.rounds[-1].measures

    @property
    def by_label(self) -> dict[str, LabelScore]:
        """What the last adapter does on the held-out examples of each label; empty without labels."""
        return self.rounds[-1].by_label

    @property
    def epsilon(self) -> dict[str, float | None]:
        """ε that training spent by site, a site's own steps at the end included; None without privacy."""
        return last_epsilon(self.rounds, self.metrics)


def finished(folder: RunFolder, *, seconds: float) -> Run:
    """What a run left. Raises RunError if it finished no round."""
    records = folder.records()
    if not records:
        raise RunError(f"{folder.path}: no round was finished; see its run.log")
    return Run(
        folder=folder.path,
        task=folder.manifest.job.task,
        rounds=tuple(records),
        seconds=seconds,
        metrics=folder.metrics,
        assessment=read_assessment(folder),
        remarks=tuple(folder.facts.get("remarks", ())),
        oddities=tuple(folder.facts.get("oddities", ())),
    )


class Named(Protocol):
    """A job, or stages."""

    @property
    def name(self) -> str: ...


def new_name(job: Named) -> str:
    """A run's name: the job's, the time, and four random hex digits."""
    return f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
