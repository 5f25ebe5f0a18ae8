"""A run beside its baselines: what privacy costs, and what federation gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.errors import RunError
from protocol.job.job import Job
from runs.formats import format_measure, format_points
from runs.run_folder import RoundRecord, RunFolder
from tasks.measures import Measure
from tasks.registry import find_task

# A baseline's folder under ``compare/``, and the title that people see.
WITHOUT_PRIVACY = "without-privacy"
ONE_SITE = "one-site"
BASELINES = {WITHOUT_PRIVACY: "Without privacy", ONE_SITE: "One site alone"}
_THIS_RUN = "This run"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run of the comparison: this one or one beside it."""

    title: str
    job: Job
    records: tuple[RoundRecord, ...]

    @property
    def last(self) -> RoundRecord:
        return self.records[-1]


def read_comparison(folder: RunFolder) -> tuple[Compared, ...]:
    """This run and those under ``compare/`` that finished a round; empty if there is none."""
    found = []
    for name, title in BASELINES.items():
        path = folder.path / "compare" / name
        try:
            other = RunFolder.open(path)
        except RunError:
            continue
        if records := other.records():
            found.append(Compared(title=title, job=other.manifest.job, records=tuple(records)))
    if not found:
        return ()
    this = Compared(title=_THIS_RUN, job=folder.manifest.job, records=tuple(folder.records()))
    return (this, *found)


def list_findings(compared: Sequence[Compared]) -> list[str]:
    """What privacy costs and what federation gains, a sentence each."""
    by_title = {run.title: run for run in compared}
    this = by_title[_THIS_RUN]
    measure = find_task(this.job.task).measures[0]
    name, now = measure.title, format_measure(this.last.measures, measure)
    sentences = []
    free = by_title.get(BASELINES[WITHOUT_PRIVACY])
    if free is not None and this.job.privacy.protects:
        lost, then = _gap(free.last, this.last, measure), format_measure(free.last.measures, measure)
        sentences.append(f"Privacy costs {lost}: {name} is {now} with it and {then} without.")
    alone = by_title.get(BASELINES[ONE_SITE])
    if alone is not None:
        gained, then = _gap(this.last, alone.last, measure), format_measure(alone.last.measures, measure)
        sentences.append(
            f"Federation gains {gained}: {name} is {now} together and {then} at one site alone."
        )
    return sentences


def _gap(better: RoundRecord, worse: RoundRecord, measure: Measure) -> str:
    """By how much one is better than the other, or that it is not."""
    gap = better.measures[measure.name] - worse.measures[measure.name]
    if measure.lower_is_better:
        gap = -gap
    if gap <= 0:
        return "nothing here"
    return f"{format_points(gap) if measure.share else format(gap, '.3g')} of {measure.title}"
