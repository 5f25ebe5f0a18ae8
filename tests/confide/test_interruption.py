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
from runs.run_folder import RunFolder, job_toml
from server.federated_run import COORDINATOR, resume_command
from server.provisioning.coordinator_folder import CoordinatorFolder
from tests import children, tiny

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
