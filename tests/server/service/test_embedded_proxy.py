"""How much of it one address gets, and what it says when there is no SuperLink behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from protocol.processes.flower_process import Child
from server.provisioning.authority import loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.embedded_proxy import FleetProxy, Rate, Settings, _end_to_end
from server.service.proxy import embedded_program, proxy_listens
from server.service.superlink import Endpoint, wait_until
from tests.ports import free_port
from tests.server.coordinators import make_coordinator

ASK = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
DOWN = b"HTTP/1.1 502 Bad Gateway"
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "raw_path": b"/v1/fleet/push-object",
    "query_string": b"",
    "headers": [(b"host", b"x"), (b"content-length", b"3")],
    "client": ("127.0.0.1", 1),
}
AT_ONCE = 6  # requests of an address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorFolder]:
    """A proxy that takes three connections, two of an address, and few requests, with nothing behind it."""
    folder = make_coordinator(tmp_path_factory.mktemp("embedded"), host="127.0.0.1")
    key, certificate = loopback_certificate(folder.flower_home)
    endpoint = Endpoint(
        host="127.0.0.1", port=free_port(), certificate=certificate, key=key, authority=certificate
    )
    child = Child(embedded_program(folder, endpoint), say=print)
    path = folder.proxy / "embedded.json"
    limits = {"connections": 3, "connections_of_an_address": 2, "head_time": 60}
    limits |= {"requests_at_once": AT_ONCE, "requests_a_second": 1e-6}
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


def test_who_asks_too_often_waits_and_the_others_do_not(folder: CoordinatorFolder) -> None:
    def ask(address: str) -> bytes:
        with ExitStack() as stack:
            sites = Sites(folder, stack)
            return sites.answer(sites.connect(address))

    answers = [ask("127.0.0.5") for _ in range(AT_ONCE + 1)]
    assert answers == [*[DOWN] * AT_ONCE, b"HTTP/1.1 503 Service Unavailable"]
    assert ask("127.0.0.6") == DOWN


def test_another_superlink_than_its_own_hears_nothing(
    sites: Sites, folder: CoordinatorFolder, tmp_path: Path
) -> None:
    """Whoever takes the SuperLink's port on this machine has another certificate."""
    port = int(json.loads((folder.proxy / "embedded.json").read_text())["superlink"].rpartition(":")[2])
    key, certificate = loopback_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            plain, _ = server.accept()
            with plain, context.wrap_socket(plain, server_side=True) as secure:
                heard.append(secure.recv(100))

    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        listener = threading.Thread(target=listen)
        listener.start()
        assert sites.answer(sites.connect("127.0.0.7")) == DOWN
        listener.join()
    assert not any(heard)


def test_it_speaks_the_newest_tls_alone(folder: CoordinatorFolder) -> None:
    context = ssl.create_default_context(cafile=str(folder.authority_certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    place = ("127.0.0.1", folder.federation.port)
    with (
        socket.create_connection(place, timeout=30, source_address=("127.0.0.8", 0)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname=place[0])


def test_a_header_that_one_connection_is_told_of_goes_no_further() -> None:
    """Each hop's own, and those that ``Connection`` names (RFC 9110 §7.6.1)."""
    headers = [
        (b"Connection", b"close, X-Hop"),
        (b"connection", b"x-other"),
        (b"X-Hop", b"1"),
        (b"x-other", b"2"),
        (b"Upgrade", b"h2c"),
        (b"Server", b"SuperLink"),
        (b"X-End", b"3"),
    ]
    assert _end_to_end(headers, without={b"server"}) == [(b"x-end", b"3")]


class Hasty(httpx.AsyncBaseTransport):
    """A SuperLink that answers before it has read what it is asked, or after."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._reads:
            await request.aread()
        return httpx.Response(200, content=_pieces())


async def _pieces() -> AsyncIterator[bytes]:
    yield b"ok"


@pytest.mark.parametrize("reads", [False, True])
def test_a_connection_ends_whose_request_was_not_read_whole(folder: CoordinatorFolder, reads: bool) -> None:
    """What is left of a body would be taken for the next request."""
    settings = Settings(**json.loads((folder.proxy / "embedded.json").read_text()))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"abc", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def answer() -> None:
        async with httpx.AsyncClient(transport=Hasty(reads=reads)) as superlink:
            await FleetProxy(settings, superlink)(SCOPE, receive, send)

    asyncio.run(answer())
    assert sent[0]["status"] == 200
    assert ((b"connection", b"close") in sent[0]["headers"]) is not reads


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
