"""Ports for what tests start: no other test on this machine gets one that this process has."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from pathlib import Path

from protocol.processes.ports import is_taken

# Below those that Linux gives to whoever asks for any: an outgoing connection may have one of these.
_PORTS = range(20_000, 32_000)
_held: list[int] = []  # open files, whose locks end with this process


def free_port() -> int:
    """A port on which nothing listens, this process's until it ends."""
    folder = Path(tempfile.gettempdir()) / f"confide-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port) and _lease(folder / str(port)):
            return port
    raise RuntimeError(f"every port from {_PORTS.start} to {_PORTS.stop - 1} is taken")


def _lease(path: Path) -> bool:
    """Lock a port's file, and keep the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True


def _is_free(port: int) -> bool:
    """Whether both kinds of loopback address can be listened at; a machine may have one of them alone."""
    return not any(is_taken(host, port) for host in ("127.0.0.1", "::1"))
