"""The command line, as people and scripts meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from confide import __version__
from confide.cli import main
from confide.terminal import LiveTable
from protocol.job.job_file import job_toml
from protocol.job.manifest import VERSION
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.registry import find_task
from tests import tiny


@pytest.fixture
def job_file(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 2})))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``confide`` with arguments; its exit code."""
    monkeypatch.setattr(sys, "argv", ["confide", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_json_is_one_object_a_line_and_nothing_else(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "simulate", job_file, "--json", "--compare", "--runs", tmp_path / "runs") == 0
    output, errors = capfd.readouterr()
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == ["round", "round", "done"]
    measures = {measure.name for measure in find_task("sequence-classification").measures}
    assert {"accuracy", "balanced_accuracy", "f1", "auc", "loss"} < measures
    keys = {"event", "round", "epsilon", "bytes_up", "bytes_down", "seconds"}
    assert set(events[0]) == keys | measures
    last = {"event", "run", "adapter", "by_label", "epsilon", "oddities", "seconds", "assessment"}
    assert set(events[-1]) == last | measures | {"comparison"}
    # One adapter, of which each round tells as much.
    assert events[-1]["assessment"]["alone"]["brier"] == pytest.approx(events[-1]["brier"])
    assert events[-1]["assessment"]["together"] is None
    compared = events[-1]["comparison"]
    assert compared["together"] == events[-1]["accuracy"]
    assert compared["best_alone"] == max(one["value"] for one in compared["alone"].values())
    assert Path(events[-1]["adapter"], "adapter_model.safetensors").exists()
    assert set(events[-1]["epsilon"]) == {"site-1", "site-2", "site-3"}
    assert errors == ""


def test_plain_lines_off_a_terminal(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = call(
        monkeypatch,
        "simulate",
        job_file,
        "--runs",
        tmp_path,
        "--run-name",
        "r",
        "--set",
        "training.rounds=1",
    )
    output = capfd.readouterr().out
    assert code == 0
    assert "round 1/1" in output
    assert "report " in output
    assert "\x1b" not in output
    assert len(RunFolder.open(tmp_path / "r").records()) == 1


def test_resume_report_and_export(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "simulate", job_file, "--runs", tmp_path, "--run-name", "r")
    run = tmp_path / "r"
    (run / "report.html").unlink()
    assert call(monkeypatch, "simulate", "--resume", run) == 0
    (run / "report.html").unlink()
    assert call(monkeypatch, "report", run) == 0
    assert (run / "report.html").exists()
    assert call(monkeypatch, "export", run, "--to", tmp_path / "adapter") == 0
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert call(monkeypatch, "export", run, "--to", tmp_path / "merged", "--merge") == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()
    capfd.readouterr()
    assert call(monkeypatch, "export", run, "--to", tmp_path / "merged") == 2
    assert "exists already" in capfd.readouterr().err
    written = ["export", run, "--to", tmp_path / "file", "--quantize", "gguf-q4"]
    assert call(monkeypatch, *written) == 2
    assert "--quantize gguf-q4: expected a task whose models write" in capfd.readouterr().err
    assert call(monkeypatch, *written, "--site", "site-1") == 2
    assert "--site: expected no --merge, --best, --average, --quantize" in capfd.readouterr().err


def test_init_writes_a_job_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "init", tmp_path / "job.toml") == 0
    assert "[privacy]" in (tmp_path / "job.toml").read_text()
    assert call(monkeypatch, "init", tmp_path / "job.toml") == 2
    assert "exists already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate"], "either a JOB file or --resume"),
        (["simulate", "missing.toml"], "no job file at missing.toml"),
        (["simulate", "JOB", "--set", "training.round=1"], "training.round: unknown key"),
        (["simulate", "JOB", "--set", "data.text=note"], "no such column"),
        (["simulate", "JOB", "--set", "model.source=no/where"], "could not be loaded"),
        (["simulate", "JOB", "--set", "adapter.target_modules=['wings']"], "query"),
        (["simulate", "--resume", "r", "--set", "training.rounds=1"], "a resumed one keeps its job"),
    ],
)
def test_the_users_mistakes_end_with_one_message_and_two(
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [str(job_file) if argument == "JOB" else argument for argument in arguments]
    assert call(monkeypatch, *filled) == 2
    errors = capfd.readouterr().err
    assert words in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_failures_end_with_one_message_and_one(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", tmp_path) == 1
    assert "not a run folder" in capfd.readouterr().err
    settings = ["--set", "training.learning_rate=1e38", "--set", "privacy.clipping_norm=1e6"]
    assert call(monkeypatch, "simulate", job_file, "--runs", tmp_path, *settings) == 1
    errors = capfd.readouterr().err
    assert "lower training.learning_rate" in errors
    assert "Traceback" not in errors


def test_a_full_disk_ends_with_one_message(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr("os.fsync", full)
    options = "--runs", tmp_path / "runs", "--homes", tmp_path / "homes"  # which are flushed, and their run
    assert call(monkeypatch, "simulate", job_file, *options) == 1
    errors = capfd.readouterr().err
    assert "No space left on device" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_disk_that_is_full_at_a_site_is_named_with_its_file(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run's own records are elsewhere, and the coordinator and the custodians are one person here."""
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if "site-2" in str(target) and str(target).endswith(".json"):
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    assert call(monkeypatch, "simulate", job_file, "--runs", tmp_path / "runs") == 1
    (told,) = capfd.readouterr().err.splitlines()
    assert "site-2 refused: the site cannot write its records; No space left on device: " in told
    assert "/sites/site-2/manifests/" in told


def test_help_needs_no_heavy_package() -> None:
    """Start-up is part of the interface: whatever loads torch waits until it is needed."""
    code = (
        "import sys; sys.argv = ['confide', '--help']\n"
        "from confide.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'flwr', 'numpy', 'pydantic', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_the_version_is_one() -> None:
    assert __version__ == VERSION
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'version = "{VERSION}"' in pyproject.read_text()


def test_the_live_table_shows_rounds_and_time_left(tiny_folder: Path, tmp_path: Path) -> None:
    from rich.console import Console

    run = simulate(tiny.job(tiny_folder, training={"rounds": 2}), runs=tmp_path)
    folder = RunFolder.open(run.folder)
    table = LiveTable()
    table._console = Console(width=110, record=True, force_terminal=True)
    with table:
        table.started(folder, "Run")
        shown = table._table()
    console = Console(width=110, record=True)
    console.print(shown)
    text = console.export_text()
    assert "2/2" in text
    assert "of 8" in text
    assert "all rounds done" in text
