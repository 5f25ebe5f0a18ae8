"""``confide stats``, as people and scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.job.job_file import job_toml
from tests import tiny
from tests.confide.test_cli import call


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
