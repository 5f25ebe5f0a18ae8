"""How much of it one address gets, and what it says when there is no SuperLink behind it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from protocol.processes.flower_process import Child
from server.provisioning.authority import loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.embedded_proxy import Rate
from server.service.proxy import embedded_program, proxy_listens
from server.service.superlink import Endpoint, wait_until
from tests.ports import free_port
from tests.server.coordinators import make_coordinator

ASK = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
DOWN = b"HTTP/1.1 502 Bad Gateway"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorFolder]:
    """A proxy that takes three connections, two of an address, with nothing behind it."""
    folder = make_coordinator(tmp_path_factory.mktemp("embedded"), host="127.0.0.1")
    key, certificate = loopback_certificate(folder.flower_home)
    endpoint = Endpoint(
        host="127.0.0.1", port=free_port(), certificate=certificate, key=key, authority=certificate
    )
    child = Child(embedded_program(folder, endpoint), say=print)
    path = folder.proxy / "embedded.json"
    limits = {"connections": 3, "connections_of_an_address": 2, "head_time": 60}
    path.write_text(json.dumps(json.loads(path.read_text()) | limits))
    child.start()
    try:
        ready = wait_until(
            lambda: proxy_listens(folder),
            alive=lambda: child.pid is not None,
            pause=threading.Event().wait,
        )
        assert ready, child.last_words
        yield folder
    finally:
        child.stop()


class Sites:
    """Connections from addresses of this machine's loopback network, that stay until the end of a test."""

    def __init__(self, folder: CoordinatorFolder, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._context = ssl.create_default_context(cafile=str(folder.authority_certificate))

    def connect(self, address: str) -> ssl.SSLSocket:
        place = ("127.0.0.1", self._folder.federation.port)
        plain = socket.create_connection(place, timeout=30, source_address=(address, 0))
        return self._stack.enter_context(self._context.wrap_socket(plain, server_hostname=place[0]))

    def answer(self, connection: ssl.SSLSocket) -> bytes:
        """The first line that comes for a request; nothing if the connection was cut off."""
        try:
            connection.sendall(ASK)
            return connection.recv(100).partition(b"\r\n")[0]
        except (ConnectionError, ssl.SSLError):
            return b""


@pytest.fixture
def sites(folder: CoordinatorFolder) -> Iterator[Sites]:
    with ExitStack() as stack:
        yield Sites(folder, stack)


def test_nobody_takes_all_connections(sites: Sites) -> None:
    """An address has its share; a full house has no place for anybody, until somebody leaves."""
    first, second, too_many = (sites.connect("127.0.0.2") for _ in range(3))
    assert sites.answer(too_many) == b""
    third, one_more = sites.connect("127.0.0.3"), sites.connect("127.0.0.4")
    assert sites.answer(one_more) == b""
    for connection in (first, second, third):
        assert sites.answer(connection) == DOWN


def test_without_a_superlink_it_says_so_at_once(sites: Sites) -> None:
    assert sites.answer(sites.connect("127.0.0.1")) == DOWN


def test_what_it_wrote_down(folder: CoordinatorFolder) -> None:
    lines = (folder.logs / "proxy-access.log").read_text().splitlines()
    assert any(line.endswith('127.0.0.2 502 0 0 "POST /v1/fleet/pull-messages HTTP/1.1"') for line in lines)


def test_an_address_has_a_rate() -> None:
    now = [0.0]
    rate = Rate(rate=10, burst=3, clock=lambda: now[0])
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b")
    now[0] = 0.1  # one more at ten a second
    assert [rate.allows("a") for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
