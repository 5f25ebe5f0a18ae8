"""Programs that tests start: Linux ends each with the test runner, even with one that is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from protocol.processes import tether


def start(command: Sequence[str], *, python: str = sys.executable, **options: Any) -> subprocess.Popen[Any]:
    """A program that goes on, with ``Popen``'s options. ``python`` is one that its user may run."""
    return subprocess.Popen(_tethered(command, python), **options)


def run(command: Sequence[str], *, check: bool = False, **options: Any) -> subprocess.CompletedProcess[Any]:
    """A program, run to its end; options are those of ``subprocess.run``."""
    return subprocess.run(_tethered(command, sys.executable), check=check, **options)


def _tethered(command: Sequence[str], python: str) -> list[str]:
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    return [python, "-I", tether.__file__, str(os.getpid()), program, *command[1:]]


def gone(pid: int) -> bool:
    """Whether a process is none any more, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


def until(condition: Callable[[], bool], *, patience: float = 60.0) -> None:
    """Look again and again: what is waited for happens in another process."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
