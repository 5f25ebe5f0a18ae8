"""People's own files in a simulation: what is held out, what is said of them, and scores by label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from confide.cli import app
from privacy.errors import DataError, JobError
from protocol.job.job import Job
from protocol.job.job_file import job_toml
from runs.run_folder import RunFolder
from server.job_context import Workplace
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

ROWS = tiny.rows()


def job(folder: Path, place: Path, **data: Any) -> Job:
    return tiny.job(folder, data={"source": str(place), "holdout": None, **data}, training={"rounds": 1})


def test_validation_is_held_out_and_the_source_is_all_for_the_sites(
    tiny_folder: Path, tmp_path: Path
) -> None:
    source = tiny.write_csv(tmp_path / "train.csv", ROWS[:200])
    held = tiny.write_csv(tmp_path / "held.csv", [*ROWS[200:], ROWS[0]])
    world = World(job(tiny_folder, source, validation=str(held)))
    assert sum(world.sizes.values()) == 200
    assert len(world.held_out) == 41
    said = "examples that data.validation and data.source have in common: 1; they flatter scores"
    assert world.workplace.oddities == (said,)
    assert World(job(tiny_folder, source)).workplace.oddities == ()


def test_a_real_run_evaluates_on_validation_where_there_is_one(tiny_folder: Path, tmp_path: Path) -> None:
    held = tiny.write_csv(tmp_path / "held.csv", ROWS[:30])
    assert len(Workplace.load(job(tiny_folder, tmp_path / "none.csv", validation=str(held))).held_out) == 30


def test_a_split_of_the_source_is_held_out(tiny_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    tiny.write_csv(place / "train.csv", ROWS[:200])
    tiny.write_csv(place / "test.csv", ROWS[200:])
    world = World(job(tiny_folder, place, split="train", validation_split="test"))
    assert sum(world.sizes.values()) == 200
    assert len(world.held_out) == 40
    with pytest.raises(DataError, match=r"data\.validation_split: data\.split='dev': .* it has 'test'"):
        World(job(tiny_folder, place, split="train", validation_split="dev"))


@pytest.mark.parametrize("apart", ["validation", "validation_split"])
def test_what_is_held_out_apart_and_holdout_are_one_too_many(tiny_folder: Path, apart: str) -> None:
    with pytest.raises(JobError, match=r"data\.holdout: expected none with data\.validation"):
        tiny.job(tiny_folder, data={apart: "held", "holdout": 0.1})


def test_a_split_is_not_trained_on_and_held_out(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"data\.validation_split: expected another than data\.split"):
        tiny.job(tiny_folder, data={"split": "a", "validation_split": "a", "holdout": None})


def test_values_that_differ_in_spaces_alone_are_no_two_sites(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [(text, label, ("town", "town ")[i % 2]) for i, (text, label, _) in enumerate(ROWS)]
    source = tiny.write_csv(tmp_path / "a.csv", rows)
    changed = job(tiny_folder, source).model_dump(exclude={"federation"}, mode="json")
    changed["federation"] = {"partition": {"column": "town"}}
    with pytest.raises(DataError, match="two of its values would both name the site 'town'"):
        World(Job.model_validate(changed))


def test_a_label_that_is_never_answered_is_said(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        (text, "yes" if number in (3, 50, 100, 170) else "no", "") for number, (text, *_) in enumerate(ROWS)
    ]
    source = tiny.write_csv(tmp_path / "train.csv", rows)
    held = tiny.write_csv(tmp_path / "held.csv", ROWS[:40])
    run = simulate(job(tiny_folder, source, validation=str(held)), runs=tmp_path / "runs")
    last = RunFolder.open(run.folder).records()[-1]
    assert sum(score.examples for score in last.by_label.values()) == 40
    assert sum(score.hits for score in last.by_label.values()) == round(40 * last.measures["accuracy"])
    assert last.by_label["yes"].examples == sum(label == "yes" for _, label, _ in ROWS[:40])
    page = run.report.read_text()
    assert "236 of 240 rows have the label" in page
    assert "Held-out scores by label after round 1" in page
    for name, score in run.by_label.items():
        told = f"he last adapter never answers &#39;{name}&#39;" in page
        assert told == (not score.answered)


def test_what_is_odd_is_said_at_the_end(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    rows = [(text, "no" if number % 40 else "yes", "") for number, (text, *_) in enumerate(ROWS)]
    toml = job_toml(job(tiny_folder, tiny.write_csv(tmp_path / "a.csv", rows)))
    path.write_bytes(b"\xef\xbb\xbf" + toml.encode())  # as editors on Windows begin a file
    done = CliRunner().invoke(app, ["simulate", str(path), "--runs", str(tmp_path / "runs"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["by_label"]) == {"no", "yes"}
    assert set(told["by_label"]["no"]) == {"examples", "recall", "precision", "f1", "mistakes"}
    assert told["oddities"] == [
        "234 of 240 rows have the label 'no': always answering that is right in 97.5 %, so look at the "
        "scores by label"
    ]
