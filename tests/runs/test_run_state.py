"""How far a run is: what may be read, and who holds it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.errors import RunError
from runs import run_state
from runs.run_folder import RunFolder
from runs.run_state import (
    RunState,
    coordinating,
    flower_run,
    is_coordinated,
    keep_flower_run,
    read_state,
    write_state,
)
from tests import children

HOLD = """
import sys
from pathlib import Path
from runs.run_folder import RunFolder
from runs.run_state import coordinating

with coordinating(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "_BETWEEN_TRIES", 0.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"state": "sleeping"}',
        b'{"state": null}',
        b'{"state": ["running"]}',
        b'{"state": "failed", "reason": 3}',
        b'{"state": "failed", "exit_code": "2"}',
        b'{"state": "failed", "exit_code": true}',
        b'{"state": "failed", "more": 1}',
    ],
)
def test_a_damaged_state(folder: RunFolder, content: bytes) -> None:
    (folder.path / "state.json").write_bytes(content)
    with pytest.raises(RunError, match=r"state\.json cannot be read"):
        read_state(folder)


def test_a_state_is_read_as_it_was_written(folder: RunFolder) -> None:
    assert read_state(folder) is None
    for state in (RunState(state="waiting"), RunState(state="failed", reason="δ is wrong", exit_code=2)):
        write_state(folder, state)
        assert read_state(folder) == state


@pytest.mark.parametrize("content", [b"", b"x", b"1.5", b"\xff"])
def test_a_damaged_number_of_flowers(folder: RunFolder, content: bytes) -> None:
    (folder.path / "flower_run").write_bytes(content)
    with pytest.raises(RunError, match="flower_run cannot be read"):
        flower_run(folder)


def test_flowers_number_is_the_newest(folder: RunFolder) -> None:
    assert flower_run(folder) is None
    for number in (5, 2**63 + 1):
        keep_flower_run(folder, number)
        assert flower_run(folder) == number


@pytest.mark.usefixtures("impatient")
def test_a_run_is_held_once(folder: RunFolder) -> None:
    assert not is_coordinated(folder)
    with coordinating(folder):
        assert is_coordinated(folder)
        with pytest.raises(RunError, match="coordinated by another process"), coordinating(folder):
            pass
        assert is_coordinated(folder)
    assert not is_coordinated(folder)
    with coordinating(folder):
        assert is_coordinated(folder)


def test_an_error_lets_go(folder: RunFolder) -> None:
    with pytest.raises(KeyError), coordinating(folder):
        raise KeyError
    assert not is_coordinated(folder)


def test_those_who_look_do_not_see_each_other(folder: RunFolder) -> None:
    with (folder.path / "run.lock").open("a") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_coordinated(folder)


def test_who_looks_does_not_stop_who_begins(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who looked has gone before the next try."""
    looking = (folder.path / "run.lock").open("a")
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(run_state.time, "sleep", lambda _: looking.close())
    with coordinating(folder):
        assert looking.closed
        assert is_coordinated(folder)


@pytest.mark.usefixtures("impatient")
def test_the_systems_kill_lets_go(folder: RunFolder) -> None:
    holder = children.start(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_coordinated(folder)
        with pytest.raises(RunError, match="coordinated by another process"), coordinating(folder):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert not is_coordinated(folder)
        with coordinating(folder):
            pass
    finally:
        holder.kill()
        holder.communicate()
