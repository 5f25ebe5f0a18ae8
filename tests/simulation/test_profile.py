"""A run that is profiled says where its time went, the same whoever trained its sites."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from client.training import training
from confide.cli import main
from confide.profile_view import print_profile
from protocol.job.job_file import job_toml
from protocol.processes.time_spent import Lap, Part
from runs.run import Run
from simulation import simulated_run
from simulation.simulate import resume, simulate
from tests import tiny

# What each round of a run under masks has. Which of the others it has depends on the run.
ROUND = {
    *(Part.DATA, Part.ACTIVATIONS, Part.GRADIENTS, Part.CLIPPING, Part.NOISE, Part.SUMS, Part.LEDGER),
    *(Part.EVALUATION, Part.DISK, Part.OTHER),
}
START = {Part.MODEL, Part.DATA, Part.CHECKS, Part.PLANS, Part.LEDGER}
MASKS = {"aggregation": {"kind": "masks"}, "training": {"rounds": 2}}


def check(run: Run, *, rounds: int = 2) -> None:
    """Laps for the whole run, or for its last ``rounds``: what each has, and nothing below zero."""
    laps = {lap.name: lap for lap in run.profile}
    names = [f"round {number}" for number in range(3 - rounds, 3)]
    assert list(laps) == ["start", *names, "end"]
    assert laps["start"].parts.keys() >= START
    for name, record in zip(names, run.rounds[-rounds:], strict=True):
        assert laps[name].parts.keys() >= ROUND
        # A record's seconds are from the round's first line to before it is written.
        assert laps[name].seconds >= record.seconds
    assert all(seconds > 0 for lap in run.profile for seconds in lap.parts.values())


@pytest.mark.parametrize("rows", [None, 6], ids=["apart", "together"])
@pytest.mark.exhaustive(but=1)
def test_a_profile_has_the_parts_of_each_round(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr(simulated_run, "rows_together", lambda *_, **__: rows)
    tried, check_heights = [], training.heights_apart
    monkeypatch.setattr(
        training,
        "heights_apart",
        lambda *args, size, **how: tried.append(size) or check_heights(*args, size=size, **how),
    )
    run = simulate(tiny.job(tiny_folder, **MASKS), runs=tmp_path, name="run", workers=1, profile=True)
    check(run)
    # Checks are made once for all three sites and both rounds, and heights are compared once a width.
    assert tried in ([8], [8, 8])  # the second time because none was as the tallest
    assert [Part.CHECKS in lap.parts for lap in run.profile] == [True, True, False, False]
    assert not simulate(tiny.job(tiny_folder, **MASKS), runs=tmp_path, name="other", workers=1).profile


@pytest.mark.process
def test_workers_tell_what_they_were_at(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, **MASKS), runs=tmp_path, name="run", workers=2, profile=True)
    check(run)
    assert all(Part.WAITING in lap.parts for lap in run.profile[:-1])


def test_a_resumed_run_tells_of_its_own_rounds(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, seeds={"noise": 1}, **MASKS)
    run = simulate(job, runs=tmp_path, name="run", workers=1)
    lines = (run.folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "rounds.jsonl").write_text(lines[0])
    check(resume(run.folder, workers=1, profile=True), rounds=1)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["confide", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_command_line_shows_a_table_or_json(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder, **MASKS)))
    asked = [str(job), "--runs", str(tmp_path), "--workers", "1", "--profile"]
    lines = told(monkeypatch, capsys, *asked).splitlines()
    headings = next(number for number, line in enumerate(lines) if line.startswith("seconds"))
    assert lines[headings].split("  ")[0] == "seconds"
    assert lines[-1].split()[0] == "together"
    assert max(map(len, lines[headings:])) <= 80

    done: dict[str, Any] = json.loads(told(monkeypatch, capsys, *asked, "--json").splitlines()[-1])
    assert [lap["lap"] for lap in done["profile"]] == ["start", "round 1", "round 2", "end"]
    for lap in done["profile"]:
        assert list(lap["parts"]) == [part.value for part in Part]
        assert sum(lap["parts"].values()) == pytest.approx(lap["seconds"])


def test_the_table_has_means_and_shares(capsys: pytest.CaptureFixture[str]) -> None:
    laps = [
        Lap(name="start", parts={Part.MODEL: 3.0}),
        Lap(name="round 1", parts={Part.GRADIENTS: 4.0, Part.DISK: 1.0}),
        Lap(name="round 2", parts={Part.GRADIENTS: 2.0}),
        Lap(name="round 3", parts={Part.GRADIENTS: 3.0, Part.NOISE: 0.001}),
        Lap(name="end", parts={Part.OTHER: 0.5}),
    ]
    print_profile(laps)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["seconds", "start", "first round", "later rounds, each", "end", "of rounds"],
        ["base model", "3.00", "0.00", "0.00", "0.00", "0.0 %"],
        ["forward and backward", "0.00", "4.00", "2.50", "0.00", "90.0 %"],
        ["disk", "0.00", "1.00", "0.00", "0.00", "10.0 %"],
        ["other", "0.00", "0.00", "0.00", "0.50", "0.0 %"],
        ["together", "3.00", "5.00", "2.50", "0.50"],
    ]
    print_profile([])
    assert capsys.readouterr().out == ""
