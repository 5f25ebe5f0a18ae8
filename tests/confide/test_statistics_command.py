"""``confide stats``, as people and scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.job.job_file import job_toml
from runs.run_state import RunState, write_state
from server.federated_run import resume_command
from server.service.server_status import read_status
from server.service.server_telemetry import FolderMetrics
from tests import tiny
from tests.confide.test_cli import call
from tests.runs.counted_runs import make_counted
from tests.server.coordinators import make_coordinator


@pytest.fixture
def job_file(tiny_folder: Path, tmp_path: Path) -> Path:
    asked = {"epsilon": 50.0, "labels": True, "lengths": {"range": [2, 10], "bins": 8}}
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, statistics=asked)))
    return path


def test_a_job_without_statistics_is_a_mistake(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder)))
    assert call(monkeypatch, "stats", path, "--runs", tmp_path / "runs") == 2
    assert "statistics: missing" in capfd.readouterr().err


def test_json_is_one_object_and_nothing_else(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = job_file.parent / "runs"
    assert call(monkeypatch, "stats", job_file, "--json", "--runs", runs, "--run-name", "told") == 0
    output, errors = capfd.readouterr()
    found = json.loads(output)
    assert errors == ""
    assert found["folder"] == str(runs / "told")
    assert found["spent"].keys() == {"site-1", "site-2", "site-3"}
    assert set(found["labels"]) == {"no", "yes"}
    assert found["noise_std"] > 0
    assert found["suggested"]["data.max_length"] in range(6, 11)


def test_people_read_how_far_noise_may_put_it_off(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "stats", job_file, "--runs", job_file.parent / "runs") == 0
    output, _ = capfd.readouterr()
    assert "3 sites counted at ε = 50.00 and δ = 0.001 in all" in output
    assert "± is one standard deviation of the noise alone" in output
    assert "data.max_length = " in output
    assert "weights that make labels even: no " in output
    assert all(len(line) <= 80 for line in output.splitlines()[:-1])


def test_what_a_federation_told_is_shown_again_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = make_coordinator(tmp_path, "north", "south")
    folder = make_counted(place.runs / "counts")
    write_state(folder, RunState(state="finished"))
    words = ("stats", "--resume", folder.path, "--coordinator", place.path)
    assert call(monkeypatch, *words, "--json") == 0
    output, errors = capfd.readouterr()
    assert json.loads(output) == {"folder": str(folder.path)} | folder.statistics.as_table()
    assert errors == ""
    assert call(monkeypatch, *words) == 0
    assert "2 sites counted at ε = 2.00" in capfd.readouterr().out
    assert resume_command(folder, place) == f"confide {' '.join(map(str, words))}"


def test_a_run_of_statistics_is_one_of_its_coordinators_runs(tmp_path: Path) -> None:
    place = make_coordinator(tmp_path, "north", "south")
    counted = make_counted(place.runs / "counts")
    write_state(counted, RunState(state="finished"))
    write_state(
        make_counted(place.runs / "failed", finished=False), RunState(state="failed", reason="two are away")
    )
    done, failed = read_status(place).runs
    spent = max(filter(None, counted.statistics.spent.values()))
    assert (done.run, done.state, done.done, done.rounds, done.epsilon) == (
        "counts",
        "finished",
        1,
        1,
        spent,
    )
    assert (failed.state, failed.done, failed.epsilon, failed.reason) == ("failed", 0, None, "two are away")
    registry = FolderMetrics(place).registry()
    for state in ("finished", "failed"):
        assert registry.get_sample_value("confide_coordinator_runs", {"state": state}) == 1


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "expected either a JOB file or --resume RUN"),
        (("{job}", "--resume", "run"), 2, "expected either a JOB file or --resume RUN"),
        (("--resume", "run", "--run-name", "other"), 2, "a resumed one keeps its job"),
        (("{job}", "--coordinator", "{place}", "--homes", "homes"), 2, "are of simulated sites"),
        (("{job}", "--coordinator", "{place}"), 1, "the server does not run: confide server start"),
        (("--resume", "{place}", "--coordinator", "{place}"), 1, "is not a run folder"),
    ],
)
def test_what_a_federation_cannot_be_asked(
    words: tuple[str, ...],
    code: int,
    why: str,
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = make_coordinator(tmp_path, "north", "south").path
    typed = [word.format(job=job_file, place=place) for word in words]
    assert call(monkeypatch, "stats", *typed) == code
    assert why in " ".join(capfd.readouterr().err.split())
