"""What a run shows while it goes on: a live table, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from confide.comparison_view import print_comparison
from confide.console import printable, shown
from confide.profile_view import print_profile, profile_table
from confide.round_bar import RoundBar
from protocol.job.phases import Phase
from runs.assessed_words import certainty_lines
from runs.formats import (
    format_bytes,
    format_count,
    format_epsilon,
    format_measure,
    format_percent,
    format_seconds,
)
from runs.progress import PrintedProgress, Progress, beside_loss, describe_round, describe_spent
from tasks.label_scores import what_scores_hide
from tasks.registry import find_task

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from runs.run import Run
    from runs.run_folder import RoundRecord, RunFolder
    from tasks.label_scores import LabelScore
    from tasks.measures import Measure

_RECENT = 3


class Display(Progress):
    """What a command tells of its run to, from the first moment to the last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        return None

    def finished(self, run: Run) -> None:
        """All is done."""


def choose_display(*, json: bool) -> Display:
    """JSON lines if asked for, a live table on a terminal, plain lines elsewhere."""
    if json:
        return JsonLines()
    return LiveTable() if sys.stdout.isatty() else PlainLines()


class JsonLines(Display):
    """One JSON object a line and nothing else; of comparison runs, what they come to in the last."""

    def __init__(self) -> None:
        self._main: Path | None = None
        self._current: Path | None = None

    def started(self, folder: RunFolder, title: str) -> None:
        self._main = self._main or folder.path
        self._current = folder.path

    def round(self, record: RoundRecord) -> None:
        if self._current != self._main:
            return
        keys = ("epsilon", "bytes_up", "bytes_down", "seconds")
        told = {"event": "round", "round": record.round, "loss": record.loss} | record.measures
        self._print(told | {key: getattr(record, key) for key in keys})

    def finished(self, run: Run) -> None:
        self._print(
            {
                "event": "done",
                "run": str(run.folder),
                "adapter": str(run.adapter),
                **run.measures,
                "by_label": {label: shown_score(score) for label, score in run.by_label.items()},
                "epsilon": run.epsilon,
                "oddities": list(run.oddities),
                "seconds": run.seconds,
            }
            | ({} if run.assessment is None else {"assessment": run.assessment.table})
            | ({"profile": profile_table(run.profile)} if run.profile else {})
            | ({} if run.comparison is None else {"comparison": run.comparison.as_table()})
        )

    @staticmethod
    def _print(item: dict[str, Any]) -> None:
        print(json.dumps(item), flush=True)


class PlainLines(PrintedProgress, Display):
    """A line a round, for logs and pipes."""

    def finished(self, run: Run) -> None:
        for line in closing_lines(run):
            print(printable(line), flush=True)
        print_profile(run.profile)
        print_comparison(run.comparison)


class LiveTable(Display):
    """A table that grows with each round, and a line that says what happens now."""

    def __init__(self) -> None:
        from rich.console import Console

        # Titles, captions and reasons are others' words: none of them is markup.
        self._console = Console(markup=False, emoji=False)
        self._live: Live | None = None
        self._status = self._console.status("Starting")
        self._records: list[RoundRecord] = []
        self._measures: list[Measure] = []
        self._rounds = 0
        self._phases: tuple[Phase, ...] = ()
        self._budget = 0.0
        self._title = ""
        self._doing = ""
        self._training: RoundBar | None = None

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._status.stop()
        self._close_table()

    def stage(self, text: str) -> None:
        self._close_table()
        self._status.update(self._text(text))
        self._status.start()

    def started(self, folder: RunFolder, title: str) -> None:
        from rich.live import Live

        self._status.stop()
        self._close_table()
        job = folder.manifest.job
        self._rounds, self._budget = job.training.rounds, job.privacy.epsilon
        self._phases = job.phases
        self._records = folder.records()
        self._measures = beside_loss(job)
        self._title = printable(f"{title}: {folder.path}")
        self._live = Live(get_renderable=self._view, console=self._console, refresh_per_second=2)
        self._live.start()

    def round(self, record: RoundRecord) -> None:
        self._training = None
        self._records.append(record)
        if self._live is not None:
            self._live.refresh()

    def doing(self, text: str) -> None:
        self._doing = printable(text)
        if self._live is not None:
            self._live.refresh()

    def training(self, done: float, *, sites: int, examples: int) -> None:
        if not done:
            self._training = RoundBar(sites=sites, examples=examples)
        elif self._training is not None:
            self._training.move(done)

    def finished(self, run: Run) -> None:
        self._status.stop()
        self._close_table()
        for line in closing_lines(run):
            self._console.print(printable(line), highlight=False, soft_wrap=True)
        print_profile(run.profile)
        print_comparison(run.comparison)

    @staticmethod
    def _text(text: str) -> Text:
        """A status would read markup in a plain string, whatever its console does."""
        from rich.text import Text

        return Text(printable(text))

    def _close_table(self) -> None:
        self._training = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _view(self) -> RenderableType:
        """The table, and a bar under it while a long round goes on."""
        from rich.console import Group

        bar = None if self._training is None else self._training.shown()
        return self._table() if bar is None else Group(self._table(), bar)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(title=self._title, title_justify="left", caption=self._caption())
        table.caption_justify = "left"
        measures = [measure.name for measure in self._measures]
        for heading in ("round", "loss", *measures, "ε of budget", "up", "down", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        height = max(3, self._console.size.height - 9)
        for record in self._records[-height:]:
            table.add_row(
                shown(describe_round(record.round, self._phases)),
                f"{record.loss:.4f}",
                *(format_measure(record.measures, measure) for measure in self._measures),
                describe_spent(record, self._budget),
                format_bytes(record.bytes_up),
                format_bytes(record.bytes_down),
                f"{record.seconds:.1f}",
            )
        return table

    def _caption(self) -> str:
        return f"{self._doing}; {self._time_left()}" if self._doing else self._time_left()

    def _time_left(self) -> str:
        left = self._rounds - len(self._records)
        if not self._records:
            return "training the first round"
        if left <= 0:
            return "all rounds done"
        recent = [record.seconds for record in self._records[-_RECENT:]]
        return f"about {format_seconds(left * sum(recent) / len(recent))} left"


def closing_lines(run: Run) -> list[str]:
    """What to do with a finished run."""
    own = []
    if run.metrics is not None:
        share, epsilon = format_percent(run.metrics.mean), format_epsilon(run.metrics.epsilon)
        own = [f"accuracy {share} on the sites' own examples, under noise for ε = {epsilon}"]
        if run.metrics.personal is not None:
            share = format_percent(run.metrics.personal.mean)
            own.append(f"accuracy {share} with the adapters that sites made of it for themselves")
    main = find_task(run.task).measures[0]
    rounds = format_count(len(run.rounds), "round")
    return [
        f"{main.title} {format_measure(run.measures, main)} after {rounds}, "
        f"in {format_seconds(run.seconds)}",
        *own,
        *certainty_lines(run.assessment),
        *(f"note: {remark}" for remark in run.remarks),
        *(f"note: {said}" for said in (*what_scores_hide(run.by_label), *run.oddities)),
        f"report  {run.report}",
        f"adapter {run.adapter}",
    ]


def shown_score(score: LabelScore) -> dict[str, Any]:
    """A label's held-out score as JSON has it."""
    return {
        "examples": score.examples,
        "recall": score.recall,
        "precision": score.precision,
        "f1": score.f1,
        "mistakes": dict(score.mistakes),
    }
