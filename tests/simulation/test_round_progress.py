"""How far a round is: counted by answers and steps, whichever way sites train; told on a terminal alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.training.cancellation import StoppedError, no_pause
from client.training.together import Share
from confide.round_bar import RoundBar
from confide.terminal import JsonLines, LiveTable, PlainLines
from protocol.job.phases import make_phases
from protocol.job.training_section import TrainingSection
from runs.progress import Progress
from simulation import simulated_run
from simulation.round_progress import RoundProgress
from simulation.simulate import simulate
from tests import tiny
from tests.server.runs import make_record

TRAINING = TrainingSection(batch_size=16, local_steps=4)


class Told(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[float, int, int]] = []

    def training(self, done: float, *, sites: int, examples: int) -> None:
        self.said.append((done, sites, examples))


def share(between: Callable[[int, int], None] = no_pause) -> Share:
    rest: dict[str, Any] = dict.fromkeys(
        ("adapter", "examples", "plan", "hidden", "entropy", "activations")
    )
    return Share(between=between, **rest)


def test_answers_and_the_steps_of_sites_together_are_counted() -> None:
    told = Told()
    progress = RoundProgress(told, TRAINING)
    progress.answered(3)  # to joining: nobody was asked to train
    assert not told.said
    progress.begin([1, 2, 5])
    watched = [progress.watched(share(), node) for node in (1, 2)]
    for step in (0, 1, 2):
        for one in watched:
            one.between(step, 4)
    for node in (1, 9, 2, 2, 5):  # the ninth was asked something else
        progress.answered(node)
    assert told.said == [(done, 3, 64) for done in (0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]
    progress.begin([4])
    assert told.said[-1] == (0, 1, 64)


def test_a_site_that_stops_between_steps_does_so() -> None:
    def stop(_step: int, _steps: int) -> None:
        raise StoppedError

    told = Told()
    progress = RoundProgress(told, TRAINING)
    progress.begin([1])
    with pytest.raises(StoppedError):
        progress.watched(share(stop), 1).between(1, 4)
    assert told.said == [(0, 1, 64)]


@pytest.mark.parametrize(
    ("rows", "workers", "steps"),
    [
        (None, 1, [0, 1, 2]),
        (6, 1, [0, 0.5, 1, 1.5, 2]),
        pytest.param(None, 2, [0, 1, 2], marks=pytest.mark.process),
    ],
    ids=["apart", "together", "workers"],
)
def test_each_way_to_train_tells_how_far_it_is(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: int | None,
    workers: int,
    steps: list[float],
) -> None:
    """Two of four sites are drawn; the others join meanwhile, and do not count."""
    monkeypatch.setattr(simulated_run, "rows_together", lambda *_, **__: rows)
    told = Told()
    job = tiny.job(tiny_folder, federation={"sites": 4, "cohort": 2}, training={"rounds": 2})
    simulate(job, runs=tmp_path, name="run", workers=workers, progress=told)
    assert told.said == [(done, 2, 32) for done in steps] * 2


# What a terminal shows.


class Hands:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(bar: RoundBar) -> str:
    shown = bar.shown()
    if shown is None:
        return ""
    console = Console(file=io.StringIO(), width=80)
    console.print(shown)
    return console.file.getvalue().strip(" ━╸╺\n")


def test_a_bar_says_how_fast_it_goes_and_what_is_left() -> None:
    hands = Hands()
    bar = RoundBar(sites=20, examples=64, clock=hands)
    hands.now = 1.9
    assert line(bar) == ""  # most rounds are over by then
    hands.now = 3.0
    assert line(bar) == "0 of 20 sites"
    hands.now = 8.0
    bar.move(4.5)
    # 4.5 · 64 examples in 8 s; the other 15.5 sites take 8 s / 4.5 each.
    assert line(bar) == "4 of 20 sites, 36 examples/s, about 28 s left in this round"
    hands.now = 10.0
    assert line(bar) == "4 of 20 sites, 36 examples/s, about 26 s left in this round"
    hands.now = 50.0
    assert line(bar).endswith("about 0.0 s left in this round")
    bar.move(20)
    hands.now = 90.0  # what comes after training is no slower training
    assert line(bar) == "20 of 20 sites, 26 examples/s"


@pytest.mark.parametrize("display", [JsonLines, PlainLines])
def test_nothing_is_said_off_a_terminal(
    display: type[JsonLines | PlainLines], capsys: pytest.CaptureFixture[str]
) -> None:
    display().training(0, sites=2, examples=8)
    assert capsys.readouterr().out == ""


def test_the_live_table_has_a_bar_in_a_long_round_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr("confide.terminal.RoundBar", partial(RoundBar, clock=hands))
    table = LiveTable()
    table._phases = make_phases(TRAINING, [])

    def shown() -> str:
        console = Console(file=io.StringIO(), width=80)
        console.print(table._view())
        return console.file.getvalue()

    table.training(0, sites=2, examples=8)
    table.training(1, sites=2, examples=8)
    assert "1 of 2 sites" not in shown()
    hands.now = 5.0
    table.training(1.5, sites=2, examples=8)
    assert "1 of 2 sites, 2 examples/s, about 1.7 s left" in shown()
    table.round(make_record(1, epsilon={"a": 1.0}))
    assert "of 2 sites" not in shown()
