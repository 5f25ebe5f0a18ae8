"""How far a run in a federation has come, as its coordinating process tells those who watch."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Literal, TypeAlias, get_args

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from runs.asked_folder import AskedFolder

_State: TypeAlias = Literal["waiting", "running", "finished", "stopped", "failed"]

# Whoever looks whether a run is coordinated holds its lock for an instant, and coordinates nothing.
_TRIES = 5
_BETWEEN_TRIES = 0.02  # seconds


@dataclass(frozen=True, kw_only=True)
class RunState:
    """``waiting`` for Flower to start it, ``running``, ``finished``, ``stopped`` by someone, or ``failed``.

    ``doing`` says whom it waits for while it runs, ``reason`` why it failed, and ``exit_code`` what a
    command that waited for it ends with.
    """

    state: _State
    doing: str = ""
    reason: str = ""
    exit_code: int = 0


def read_state(folder: AskedFolder) -> RunState | None:
    """What was last written, None if nothing was. Raises RunError if it cannot be read."""
    path = folder.path / "state.json"
    try:
        return _checked(RunState(**json.loads(path.read_text()))) if path.exists() else None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def write_state(folder: AskedFolder, state: RunState) -> None:
    """Replace what was written last."""
    write_durably(folder.path / "state.json", json.dumps(asdict(state)).encode(), mode=BY_UMASK)


def flower_run(folder: AskedFolder) -> int | None:
    """Flower's number for the run, the newest if it was resumed; None before Flower has it."""
    path = folder.path / "flower_run"
    try:
        return int(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def keep_flower_run(folder: AskedFolder, number: int) -> None:
    """Remember Flower's number, apart from the state, which is the coordinating process's to write."""
    write_durably(folder.path / "flower_run", str(number).encode(), mode=BY_UMASK)


@contextmanager
def coordinating(folder: AskedFolder) -> Iterator[None]:
    """Hold the run while coordinating it. Raises RunError if another process does."""
    with _lock_file(folder) as file:
        for _ in range(_TRIES):
            if _locked(file, fcntl.LOCK_EX):
                break
            time.sleep(_BETWEEN_TRIES)
        else:
            raise RunError(f"{folder.path} is being coordinated by another process")
        yield


def is_coordinated(folder: AskedFolder) -> bool:
    """Whether a living process coordinates the run."""
    with _lock_file(folder) as file:
        return not _locked(file, fcntl.LOCK_SH)  # shared: several may look at once


def _checked(state: RunState) -> RunState:
    """Raises ValueError unless each field is what it is said to be."""
    texts = isinstance(state.doing, str) and isinstance(state.reason, str)
    if state.state not in get_args(_State) or not texts or type(state.exit_code) is not int:
        raise ValueError(f"not a state: {state}")
    return state


def _lock_file(folder: AskedFolder) -> IO[str]:
    return (folder.path / "run.lock").open("a")


def _locked(file: IO[str], kind: int) -> bool:
    """Take the lock, which the system gives back when the file is closed or its process dies."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
