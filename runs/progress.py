"""Where a simulation tells how it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.job.job import Job
from protocol.job.phases import Phase, phase_in
from protocol.plain_text import escaped
from runs.formats import format_bytes, format_epsilon, format_measure
from runs.run_folder import RoundRecord, RunFolder
from tasks.measures import LOSS, Measure
from tasks.registry import find_task


class Progress:
    """A listener to one or more runs; what it does not override, it does not show."""

    def stage(self, text: str) -> None:
        """Something slow begins."""

    def started(self, folder: RunFolder, title: str) -> None:
        """A run has its folder; its rounds follow."""

    def doing(self, text: str) -> None:
        """What the run waits for has changed; empty if it waits for nobody."""

    def training(self, done: float, *, sites: int, examples: int) -> None:
        """So many ``sites`` of a round have been asked to train, and so many are done: 2.5 of 4.

        ``examples`` are those that a site is expected to train on in a round. It is called from whichever
        thread an answer comes on, and returns at once.
        """

    def round(self, record: RoundRecord) -> None:
        """A round is finished and on disk."""


class Silence(Progress):
    """A listener that shows nothing."""


class PrintedProgress(Progress):
    """A listener that prints a line a round, for logs that others collect."""

    def __init__(self) -> None:
        self._phases: tuple[Phase, ...] = ()
        self._budget = 0.0
        self._measures: list[Measure] = []

    def stage(self, text: str) -> None:
        print(escaped(text), flush=True)

    def started(self, folder: RunFolder, title: str) -> None:
        job = folder.manifest.job
        self._phases, self._budget = job.phases, job.privacy.epsilon
        self._measures = beside_loss(job)
        print(escaped(f"{title}: {folder.path}"), flush=True)
        for record in folder.records():
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        told = "  ".join(f"{m.name} {format_measure(record.measures, m)}" for m in self._measures)
        print(
            f"round {describe_round(record.round, self._phases)}  loss {record.loss:.4f}  {told}  "
            f"ε {describe_spent(record, self._budget)}  "
            f"up {format_bytes(record.bytes_up)}  down {format_bytes(record.bytes_down)}  "
            f"{record.seconds:.1f} s",
            flush=True,
        )


def describe_round(number: int, phases: Sequence[Phase]) -> str:
    """A round's number of how many, and its phase's name if there are phases: 3/8, or 3/8 heads."""
    name = phase_in(phases, number).name
    return f"{number}/{phases[-1].last_round}" + f" {name}" * bool(name)


def beside_loss(job: Job) -> list[Measure]:
    """The measures that a round is told by in a line, beside its loss: the two that count most."""
    return [measure for measure in find_task(job.task).measures if measure is not LOSS][:2]


def describe_spent(record: RoundRecord, budget: float) -> str:
    """The largest ε among the sites, of the budget; ∞ without privacy."""
    highest = record.highest_epsilon
    return "∞ (no privacy)" if highest is None else f"{format_epsilon(highest)} of {budget:g}"
