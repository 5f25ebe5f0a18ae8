"""A run beside its baselines: what privacy costs, and what federation gains."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from protocol.job.job import Job
from runs.formats import format_count, format_epsilon, format_measure, format_points
from runs.run_folder import RoundRecord, RunFolder
from tasks.measures import ACCURACY, Measure
from tasks.registry import find_task

# Under ``compare/`` of a run's folder: the baselines, and which labels each site has.
WITHOUT_PRIVACY = "without-privacy"
ALONE = "alone"
_LABELS = "labels.json"
NOTHING = "nothing"  # of a gap that is none
_LABELS_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class SiteAlone:
    """One site that trained alone: its last round, and how many examples of each label it has."""

    site: str
    job: Job
    records: tuple[RoundRecord, ...]
    examples: int
    labels: Mapping[str, int]

    @property
    def last(self) -> RoundRecord:
        return self.records[-1]

    @property
    def mix(self) -> str:
        """Its labels' shares, of many the largest: 62 % negative, 0 % neutral, 38 % positive."""
        whole, told = sum(self.labels.values()), self.labels
        if len(told) > _LABELS_TOLD:
            most = sorted(told, key=lambda label: (-told[label], label))[:_LABELS_TOLD]
            told = {label: told[label] for label in most}
        return ", ".join(f"{100 * count / whole:.0f} % {label}" for label, count in told.items())


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """A line of the comparison: a ``value`` of the main measure, the ε it took, and who trained."""

    title: str
    value: float
    epsilon: str = ""
    who: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The last round of a run, of the same without privacy, and of sites that trained alone.

    A site alone has the run's own ε, rounds, steps and learning rate, and its own examples. ``majority`` is
    the accuracy of always answering the most frequent label.
    """

    job: Job
    together: RoundRecord
    free: RoundRecord | None
    alone: tuple[SiteAlone, ...]
    majority: float | None

    @property
    def measure(self) -> Measure:
        """What runs are compared by: the task's main measure."""
        return find_task(self.job.task).measures[0]

    @property
    def best(self) -> SiteAlone | None:
        """The site that does best alone, by the held-out examples; None if none trained."""
        better = min if self.measure.lower_is_better else max
        return better(self.alone, key=lambda one: self._value(one.last)) if self.alone else None

    @property
    def mean(self) -> float | None:
        """The mean of the sites that trained alone, each counted once; None if none did."""
        return statistics.fmean(self._value(one.last) for one in self.alone) if self.alone else None

    @property
    def rows(self) -> list[ComparedRow]:
        """The numbers side by side."""
        everyone = format_count(len(self.together.epsilon), "site")
        rows = [
            ComparedRow(
                title="together",
                value=self._value(self.together),
                epsilon=_epsilon(self.job, self.together),
                who=everyone,
            )
        ]
        if self.free is not None:
            rows.append(
                ComparedRow(
                    title="without privacy", value=self._value(self.free), epsilon="none", who=everyone
                )
            )
        if self.best is not None and self.mean is not None:
            epsilon = _epsilon(self.best.job, self.best.last)
            rows += [
                ComparedRow(
                    title="best site alone",
                    value=self._value(self.best.last),
                    epsilon=epsilon,
                    who=self.best.site,
                ),
                ComparedRow(
                    title="mean site alone",
                    value=self.mean,
                    epsilon=epsilon,
                    who=f"of {format_count(len(self.alone), 'site')}",
                ),
            ]
        if self.majority is not None and self.measure is ACCURACY:
            rows.append(ComparedRow(title="most frequent label", value=self.majority))
        return rows

    @property
    def findings(self) -> list[str]:
        """What privacy costs, what federation gains, and what makes that a fair comparison: a line each."""
        now, found = self._value(self.together), []
        if self.free is not None:
            gap = self._gap(self._value(self.free), now)
            # Noise differs from run to run, and held-out examples are some.
            costs = f"Privacy costs {gap}" if gap != NOTHING else "No cost of privacy shows"
            found.append(f"{costs} on these examples, in this run.")
        if self.best is not None and self.mean is not None:
            best, mean = (self._gap(now, value) for value in (self._value(self.best.last), self.mean))
            private = " ε," * self.job.privacy.protects
            found += [
                f"Federation gains {best} over the best site alone, {mean} over the mean.",
                f"Alone, each site has the same{private} rounds, steps and learning rate.",
            ]
        return found

    def told(self, value: float) -> str:
        """A value of the main measure as people read it."""
        return format_measure({self.measure.name: value}, self.measure)

    def as_table(self) -> dict[str, Any]:
        """The same for machines; what is not there is null."""
        return {
            "measure": self.measure.name,
            "together": self._value(self.together),
            "without_privacy": None if self.free is None else self._value(self.free),
            "best_alone": None if self.best is None else self._value(self.best.last),
            "mean_alone": self.mean,
            "alone": {
                one.site: {
                    "value": self._value(one.last),
                    "epsilon": one.last.highest_epsilon,
                    "examples": one.examples,
                    "labels": dict(one.labels),
                }
                for one in self.alone
            },
        }

    def _value(self, record: RoundRecord) -> float:
        return record.measures[self.measure.name]

    def _gap(self, better: float, worse: float) -> str:
        """By how much one is better than the other, or that it is not."""
        gap = worse - better if self.measure.lower_is_better else better - worse
        if gap <= 0:
            return NOTHING
        return format_points(gap) if self.measure.share else f"{gap:.3g} of {self.measure.title}"


def read_comparison(folder: RunFolder) -> Comparison | None:
    """A run and those under ``compare/`` that finished a round; None if there is none.

    Raises RunError if which labels the sites have cannot be read.
    """
    beside, records = folder.path / "compare", folder.records()
    free = _finished(beside / WITHOUT_PRIVACY)
    labels = _read_labels(beside / _LABELS)
    alone = []
    for path in sorted((beside / ALONE).iterdir(), key=_by_number) if (beside / ALONE).is_dir() else ():
        if (there := _finished(path)) is not None:
            alone.append(
                SiteAlone(
                    site=path.name,
                    job=there.manifest.job,
                    records=tuple(there.records()),
                    examples=there.facts["examples_by_site"][path.name],
                    labels=labels.get(path.name, {}),
                )
            )
    if not records or (free is None and not alone):
        return None
    return Comparison(
        job=folder.manifest.job,
        together=records[-1],
        free=None if free is None else free.records()[-1],
        alone=tuple(alone),
        majority=folder.facts.get("majority"),
    )


def save_labels(folder: RunFolder, labels: Mapping[str, Mapping[str, int]]) -> None:
    """Write down how many examples of each label sites have: of a simulation, where that is no secret."""
    path = folder.path / "compare" / _LABELS
    path.parent.mkdir(exist_ok=True)
    write_durably(path, json.dumps(labels, indent=1).encode(), mode=BY_UMASK, flush=folder.flush)


def _read_labels(path: Path) -> dict[str, dict[str, int]]:
    try:
        found: dict[str, dict[str, int]] = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error!r}") from error
    return found


def _by_number(path: Path) -> list[str | int]:
    """Sorts site-2 before site-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _finished(path: Path) -> RunFolder | None:
    """A run that has finished a round; None if there is none here."""
    try:
        folder = RunFolder.open(path)
    except RunError:
        return None
    return folder if folder.records() else None


def _epsilon(job: Job, record: RoundRecord) -> str:
    return format_epsilon(record.highest_epsilon) if job.privacy.protects else "none"
