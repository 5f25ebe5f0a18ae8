"""A program that ends when the process that asked for it does: ``python tether.py PARENT PROGRAM …``.

A supervisor that is killed outright ends nothing any more. Linux does it instead: it signals whoever asked
for that in prctl(2). Elsewhere the program outlives its supervisor.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Have this process get SIGTERM when the thread that started it ends. Raises OSError."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def main(arguments: list[str]) -> None:
    """Become the program, tied to the thread of the parent that started it."""
    parent, command = int(arguments[0]), arguments[1:]
    tie_to_parent()
    if sys.platform == "linux" and os.getppid() != parent:  # it ended before that, and no signal comes
        raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
