"""Where an agent listens."""

from __future__ import annotations

import os
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from client.agent.agent import Agent
from client.agent.listening import listen_on_socket, listen_with_tls, only_agent_of
from client.agent.mailbox import Mailbox
from client.agent.worker import Worker
from privacy.errors import RunError, UserError
from privacy.identity import Identity
from protocol.messages.site_keys import make_site_keys
from tests.client.agents import SITE


def test_the_socket_is_its_owners(tmp_path: Path) -> None:
    server = bare_server(tmp_path)
    listen_on_socket(server, tmp_path / "a.sock", group=None)
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o600
    server.stop(0).wait()


def test_the_socket_is_its_groups_too_and_of_nobody_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    chown = os.chown

    def watch(path: Path, *owners: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chown(path, *owners)

    monkeypatch.setattr(os, "chown", watch)
    server = bare_server(tmp_path)
    listen_on_socket(server, tmp_path / "a.sock", group=os.getgid())
    assert seen == [0o600]
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o660
    server.stop(0).wait()


def test_what_a_dead_agent_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = bare_server(tmp_path)
    listen_on_socket(server, path, group=None)
    server.stop(0).wait()
    other = tmp_path / "precious"
    other.write_text("data")
    with pytest.raises(UserError, match="something else than a socket"):
        listen_on_socket(bare_server(tmp_path), other, group=None)
    assert other.read_text() == "data"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "b.sock"))
        alive.listen()
        with pytest.raises(RunError, match="someone else listens"):
            listen_on_socket(bare_server(tmp_path), tmp_path / "b.sock", group=None)
    with pytest.raises(UserError, match="107 bytes at most"):
        listen_on_socket(bare_server(tmp_path), tmp_path / ("x" * 100), group=None)


def test_a_home_has_one_agent(tmp_path: Path) -> None:
    with only_agent_of(tmp_path), pytest.raises(RunError, match="already"), only_agent_of(tmp_path):
        pass
    with only_agent_of(tmp_path):
        pass


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    make_site_keys(tmp_path, now=datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RunError, match=f"{address}'.*another program listens there"):
            listen_with_tls(bare_server(tmp_path), address, home=tmp_path)


def bare_server(folder: Path) -> grpc.Server:
    identity = Identity.generate()
    mailbox = Mailbox(folder, site=SITE, identity=identity, coordinator=identity.public)
    return Agent(mailbox, Worker(mailbox, queue=1), site=SITE).make_server()
