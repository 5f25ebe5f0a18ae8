"""Ctrl-C on a command: it says what to type, and that works."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from confide.interruption import interruptible
from protocol.job.job_file import job_toml
from runs.run_folder import RunFolder
from runs.run_state import RunState, coordinating, write_state
from server.federated_run import COORDINATOR, resume_command
from server.provisioning.coordinator_folder import CoordinatorFolder
from tests import children, tiny
from tests.server.coordinators import make_coordinator
from tests.server.runs import make_record, make_run

CONFIDE = [sys.executable, "-m", "confide"]


@pytest.mark.process
def test_a_simulation_that_was_interrupted_says_how_to_go_on(tiny_folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 500})))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*CONFIDE, "simulate", str(job), "--json", "--runs", str(tmp_path / "my runs")]
    with children.start(command, **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        told = process.communicate()[1].splitlines()
    assert process.returncode == 130
    (run,) = (tmp_path / "my runs").iterdir()
    assert told == [f"confide: interrupted; go on with: confide simulate --resume '{run}'"]
    done = len(RunFolder.open(run).records())
    typed = shlex.split(told[0].partition("go on with: confide ")[2])
    with children.start([*CONFIDE, *typed, "--json"], **pipes) as process:
        assert json.loads(process.stdout.readline())["round"] == done + 1
        process.kill()


@pytest.mark.process
def test_a_federations_run_that_is_watched_goes_on_and_says_how_to_watch_it(tmp_path: Path) -> None:
    """Nobody sits there to be asked what Ctrl-C meant: it only ends the watching."""
    coordinator = make_coordinator(tmp_path)
    run = make_run(coordinator.runs / "tweets-1", records=[make_record(1)])
    write_state(run, RunState(state="running"))
    typed = ["run", "--resume", str(run.path), "--coordinator", str(coordinator.path)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with coordinating(run), children.start([*CONFIDE, *typed], **pipes, text=True) as process:
        process.stdout.readline()  # it watches
        process.send_signal(signal.SIGINT)
        told = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert told[-1].endswith(f"The run goes on; watch it with: confide {shlex.join(typed)}")


@pytest.mark.process
def test_workers_are_interrupted_with_their_coordinator(tiny_folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 500})))
    command = [*CONFIDE, "simulate", str(job), "--json", "--workers", "2", "--runs", str(tmp_path / "runs")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with children.start(command, **pipes) as process:
        process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        (told,) = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    assert told.endswith(" --workers 2")
    assert len(workers) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_the_advice_is_asked_for_when_it_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, interruptible(lambda: "begin anew\x1b[2J"):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "confide: interrupted; begin anew\\x1b[2J\n"
    with interruptible(lambda: pytest.fail("nobody was interrupted")):
        pass


def test_a_federations_run_is_gone_on_with_at_its_coordinator() -> None:
    run = RunFolder(Path("federation/coordinator/runs/a b"))
    command = "confide run --resume 'federation/coordinator/runs/a b'"
    assert resume_command(run, CoordinatorFolder(COORDINATOR)) == command
    assert resume_command(run, CoordinatorFolder(Path("there"))) == f"{command} --coordinator there"
