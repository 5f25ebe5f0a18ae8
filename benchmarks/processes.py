"""The processes below one that was started here: what they are, and how much memory they hold."""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def end_in_order() -> None:
    """Let SIGTERM unwind this process as Ctrl-C does, so that what it started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def children(pid: int) -> list[int]:
    """Those that any of its threads started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return found


def find_below(pid: int, program: str) -> list[int]:
    """The descendants whose command names ``program``; all of them if it is empty."""
    found = []
    for child in children(pid):
        if program in command(child):
            found.append(child)
        found += find_below(child, program)
    return found


def command(pid: int) -> str:
    """Its command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def resident_mib(pid: int) -> int:
    """The memory that a process holds, in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))
