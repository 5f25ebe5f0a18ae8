"""Whether a port of this machine is free: who is told so first need not read another program's log."""

from __future__ import annotations

import errno
import socket


def is_taken(host: str, port: int) -> bool:
    """Whether someone listens at ``host:port`` already; False where that cannot be known by trying."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections that ended a moment ago are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
