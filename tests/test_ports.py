"""Ports that tests take, each for itself."""

from __future__ import annotations

import socket
import sys

import pytest

from tests import children, ports
from tests.ports import free_port

ANOTHER = (
    "from tests import ports; ports._PORTS = range({0}, {0} + 2); print(ports.free_port(), flush=True)"
)


def takes_in_turn(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether of two ports this process has one, another gets the other, and this one has it after that.

    Another test may have the second already, or take it meanwhile.
    """
    first = next(port for port in iter(free_port, 0) if ports._is_free(port + 1))
    monkeypatch.setattr(ports, "_PORTS", range(first, first + 2))
    other = children.run([sys.executable, "-c", ANOTHER.format(first)], capture_output=True, text=True)
    try:
        here = free_port()
    except RuntimeError:
        return False
    return other.stdout.strip() == str(first + 1) == str(here)


def test_a_port_is_one_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        with monkeypatch.context() as patched:
            if takes_in_turn(patched):
                with pytest.raises(RuntimeError, match="is taken"):
                    free_port()
                return
    pytest.fail("no two ports of 20 were taken in turn")


def test_a_port_where_something_listens_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "_PORTS", range(port, port + 1))
        with pytest.raises(RuntimeError, match="is taken"):
            free_port()
