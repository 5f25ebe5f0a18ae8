"""What a run shows while it goes on: a live table, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from simulation.progress import Progress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from protocol.job import Job
    from server.run_folder import RoundRecord, RunFolder
    from simulation.run import Run

_RECENT = 3


class Display(Progress, Protocol):
    """What a command tells of its run to, from the first moment to the last."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def finished(self, run: Run) -> None:
        """All is done."""
        ...


def choose_display(*, json: bool) -> Display:
    """JSON lines if asked for, a live table on a terminal, plain lines elsewhere."""
    if json:
        return JsonLines()
    return LiveTable() if sys.stdout.isatty() else PlainLines()


class _Quiet:
    """Entering and leaving does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class JsonLines(_Quiet):
    """One JSON object a line and nothing else; comparison runs are left to the report."""

    def __init__(self) -> None:
        self._main: Path | None = None
        self._current: Path | None = None

    def stage(self, text: str) -> None:
        return None

    def started(self, folder: RunFolder, title: str) -> None:
        self._main = self._main or folder.path
        self._current = folder.path

    def round(self, record: RoundRecord) -> None:
        if self._current != self._main:
            return
        keys = ("round", "loss", "accuracy", "epsilon", "bytes_up", "bytes_down", "seconds")
        self._print({"event": "round"} | {key: getattr(record, key) for key in keys})

    def finished(self, run: Run) -> None:
        self._print(
            {
                "event": "done",
                "run": str(run.folder),
                "adapter": str(run.adapter),
                "accuracy": run.accuracy,
                "epsilon": run.epsilon,
                "seconds": run.seconds,
            }
        )

    @staticmethod
    def _print(item: dict[str, Any]) -> None:
        print(json.dumps(item), flush=True)


class PlainLines(_Quiet):
    """A line a round, for logs and pipes."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def stage(self, text: str) -> None:
        print(text, flush=True)

    def started(self, folder: RunFolder, title: str) -> None:
        self._job = folder.manifest.job
        print(f"{title}: {folder.path}", flush=True)
        for record in folder.records():
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        rounds, budget = _targets(self._job)
        print(
            f"round {record.round}/{rounds}  loss {record.loss:.4f}  "
            f"accuracy {record.accuracy:.1%}  ε {describe_epsilon(record.epsilon, budget)}  "
            f"up {describe_bytes(record.bytes_up)}  down {describe_bytes(record.bytes_down)}  "
            f"{record.seconds:.1f} s",
            flush=True,
        )

    def finished(self, run: Run) -> None:
        for line in closing_lines(run):
            print(line, flush=True)


class LiveTable:
    """A table that grows with each round, and a line that says what happens now."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._live: Live | None = None
        self._status = self._console.status("Starting")
        self._records: list[RoundRecord] = []
        self._job: Job | None = None
        self._title = ""

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._status.stop()
        self._close_table()

    def stage(self, text: str) -> None:
        self._close_table()
        self._status.update(text)
        self._status.start()

    def started(self, folder: RunFolder, title: str) -> None:
        from rich.live import Live

        self._status.stop()
        self._close_table()
        self._job = folder.manifest.job
        self._records = folder.records()
        self._title = f"{title}: {folder.path}"
        self._live = Live(self._table(), console=self._console, refresh_per_second=2)
        self._live.start()

    def round(self, record: RoundRecord) -> None:
        self._records.append(record)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def finished(self, run: Run) -> None:
        self._status.stop()
        self._close_table()
        for line in closing_lines(run):
            self._console.print(line, highlight=False, soft_wrap=True)

    def _close_table(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        from rich.table import Table

        rounds, budget = _targets(self._job)
        table = Table(title=self._title, title_justify="left", caption=self._time_left(rounds))
        table.caption_justify = "left"
        for heading in ("round", "loss", "accuracy", "ε of budget", "up", "down", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        height = max(3, self._console.size.height - 9)
        for record in self._records[-height:]:
            table.add_row(
                f"{record.round}/{rounds}",
                f"{record.loss:.4f}",
                f"{record.accuracy:.1%}",
                describe_epsilon(record.epsilon, budget),
                describe_bytes(record.bytes_up),
                describe_bytes(record.bytes_down),
                f"{record.seconds:.1f}",
            )
        return table

    def _time_left(self, rounds: int) -> str:
        left = rounds - len(self._records)
        if not self._records:
            return "training the first round"
        if left <= 0:
            return "all rounds done"
        recent = [record.seconds for record in self._records[-_RECENT:]]
        return f"about {describe_seconds(left * sum(recent) / len(recent))} left"


def closing_lines(run: Run) -> list[str]:
    """What to do with a finished run."""
    return [
        f"accuracy {run.accuracy:.1%} after {len(run.rounds)} rounds, in {describe_seconds(run.seconds)}",
        f"report  {run.report}",
        f"adapter {run.adapter}",
    ]


def describe_epsilon(epsilon: dict[str, float | None], budget: float) -> str:
    """The largest ε among the sites, of the budget; ∞ without privacy."""
    spent = list(epsilon.values())
    if any(value is None for value in spent):
        return "∞ (no privacy)"
    return f"{max(value for value in spent if value is not None):.2f} of {budget:g}"


def describe_bytes(count: int) -> str:
    """Bytes in decimal units: 1.2 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def describe_seconds(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _targets(job: Job | None) -> tuple[int, float]:
    if job is None:
        return 0, 0.0
    return job.training.rounds, job.privacy.epsilon
