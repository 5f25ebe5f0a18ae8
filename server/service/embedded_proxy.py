"""The proxy before the SuperLink where nginx is not installed: ``python -I embedded_proxy.py SETTINGS``.

It passes on what the nginx of ``server/service/proxy.py`` passes on, and refuses the rest in the same way.
It imports nothing of Confide's: the process that faces the network holds no key but the server's, and none
of the coordinator's code. Bodies go through in pieces and are never held whole.

uvicorn reads HTTP with h11 and leaves to others how long a client may take and how often it may come:
``Connection`` bounds what happens before a request is known, ``FleetProxy`` what happens from then on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import resource
import socket
import ssl
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

Headers = list[tuple[bytes, bytes]]

_access = logging.getLogger("proxy.access")

_PATIENCE = httpx.Timeout(connect=5.0, write=30.0, read=60.0, pool=5.0)  # with the SuperLink

# The path as it came, with nothing decoded; before it may stand the address of the server itself.
_CALL = re.compile(rb"(?:https://[A-Za-z0-9.:\[\]-]+)?/v1/fleet/([a-z]+(?:-[a-z]+)*)")

# RFC 9110 §7.6.1, with the older names: what concerns one connection is not passed on.
_HOP_BY_HOP = set(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate "
    b"proxy-authorization".split()
)
# What this program says itself.
_OWN = {b"host", b"content-length", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to listen, with what, for whom; what a client may take. Sizes are bytes, times seconds."""

    listen: list[tuple[str, int]]
    certificate: str
    key: str
    superlink: str  # host:port
    authority: str
    log: str
    connections: int = 1024
    connections_of_an_address: int = 256
    requests_a_second: float = 100.0  # of an address
    requests_at_once: int = 400
    head_size: int = 16 * 2**10
    body_size: int = 8 * 2**20  # Flower sends arrays in pieces of 5 MiB
    head_time: float = 10.0  # for a TLS handshake, and then for a request's line and headers
    body_time: float = 300.0  # for the whole of a body
    pause: float = 30.0  # between two pieces of a body, or until an answer is taken on
    idle: int = 60  # between two requests


class Rate:
    """How often each address comes: ``rate`` a second, after ``burst`` at once (a token bucket)."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Whether one more request is within the rate; it is counted if it is."""
        now = self._clock()
        left, seen = self._left.pop(address, (float(self._burst), now))
        left = min(self._burst, left + (now - seen) * self._rate)
        allowed = left >= 1
        self._left[address] = (left - 1 if allowed else left, now)
        if len(self._left) > 10_000:  # addresses; who came longest ago is forgotten
            self._left.popitem(last=False)
        return allowed


class Connection(H11Protocol):
    """One connection: uvicorn's HTTP/1.1, and what it leaves open.

    It ends where there are too many, where a head is not whole in time, and where nobody reads the answer.
    """

    def __init__(self, *, settings: Settings, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._settings = settings
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else "-"
        # All of them are of this class, whatever uvicorn's types say.
        own = sum(other.address == self.address for other in self.connections)  # type: ignore[union-attr]
        most, most_of_one = self._settings.connections, self._settings.connections_of_an_address
        if len(self.connections) > most or own > most_of_one:
            transport.abort()
        else:
            self._head = self.loop.call_later(self._settings.head_time, transport.abort)

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._head = _cancelled(self._head)
        elif self._head is None and self.conn.trailing_data[0]:  # a next request has begun
            self._head = self.loop.call_later(self._settings.head_time, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        _note(self.address, HTTPStatus.BAD_REQUEST)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its request is not answered a second time
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(self._settings.pause, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader = _cancelled(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head, self._reader = _cancelled(self._head), _cancelled(self._reader)

    def _should_upgrade(self) -> bool:
        return False  # and so nothing is said about it: the request is like any other


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None


class Body:
    """A request's body as it comes, or TimeoutError if that takes long; ``whole`` once all has come."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._request, self._settings, self.whole = request, settings, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        now = asyncio.get_running_loop().time
        end, pieces = now() + self._settings.body_time, self._request.stream()
        while True:
            async with asyncio.timeout_at(min(end, now() + self._settings.pause)):
                piece = await anext(pieces, b"")
            if not piece:
                self.whole = True
                return
            yield piece


class FleetProxy:
    """The application: ``POST /v1/fleet/NAME`` goes to the SuperLink, and nothing else."""

    def __init__(self, settings: Settings, superlink: httpx.AsyncClient) -> None:
        self._settings, self._superlink = settings, superlink
        self._rate = Rate(rate=settings.requests_a_second, burst=settings.requests_at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call, length = _call(scope), int(request.headers.get("content-length", 0))
        body, answer, given = Body(request, self._settings), None, 0
        status = self._refusal(request, call, length)
        if status is None:
            status, answer = await self._ask(self._outgoing(request, call, body))
        if answer is None:
            await Response(status_code=status, headers={"connection": "close"})(scope, receive, send)
        else:
            given = await _hand_on(answer, send, close=not body.whole)
        _note(_address(request), status, length, given, _line(scope))

    def _refusal(self, request: Request, call: str, length: int) -> int | None:
        """The status to turn a request away with; None if it passes."""
        head = sum(len(name) + len(value) for name, value in request.headers.raw)
        refusals = (
            (call == "", HTTPStatus.NOT_FOUND),
            (request.method != "POST", HTTPStatus.METHOD_NOT_ALLOWED),
            (head > self._settings.head_size, HTTPStatus.BAD_REQUEST),
            # With a length alone, nobody can read the end of a body in two ways (RFC 9112 §6.1).
            ("transfer-encoding" in request.headers, HTTPStatus.LENGTH_REQUIRED),
            (length > self._settings.body_size, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        )
        for refused, status in refusals:
            if refused:
                return status
        # SuperNodes wait and ask again; of 429 they would end.
        return None if self._rate.allows(_address(request)) else HTTPStatus.SERVICE_UNAVAILABLE

    async def _ask(self, request: httpx.Request) -> tuple[int, httpx.Response | None]:
        """The SuperLink's answer, its body not read yet; or the status of what went wrong."""
        try:
            answer = await self._superlink.send(request, stream=True)
        except ClientDisconnect:
            return 499, None  # nginx's word, in its log alone
        except TimeoutError:  # of the client's body
            return HTTPStatus.REQUEST_TIMEOUT, None
        except httpx.TimeoutException:
            return HTTPStatus.GATEWAY_TIMEOUT, None
        except httpx.HTTPError:
            return HTTPStatus.BAD_GATEWAY, None
        return answer.status_code, answer

    def _outgoing(self, request: Request, call: str, body: Body) -> httpx.Request:
        """The request as the SuperLink gets it, its path written here."""
        headers = [
            *_end_to_end(request.headers.raw, without=_OWN),
            (b"content-length", request.headers.get("content-length", "0").encode()),
            (b"x-forwarded-for", _address(request).encode()),
            (b"x-forwarded-proto", b"https"),
        ]
        url = f"https://{self._settings.superlink}/v1/fleet/{call}"
        patience = {"timeout": _PATIENCE.as_dict()}
        return httpx.Request("POST", url, headers=headers, content=body, extensions=patience)


async def _hand_on(answer: httpx.Response, send: Send, *, close: bool) -> int:
    """Send an answer on as it comes, and then ``close`` if the request was not read whole: its bytes."""
    headers, given = _end_to_end(answer.headers.raw, without={b"server"}), 0
    if close:
        headers.append((b"connection", b"close"))
    async with aclosing(answer):
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        with suppress(httpx.HTTPError):  # the answer has no end: uvicorn says so and closes the connection
            async for piece in answer.aiter_raw():
                given += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
    return given


def _end_to_end(headers: Headers, *, without: set[bytes]) -> Headers:
    """The headers that are not about one connection, nor named by its own ``Connection``."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = b",".join(value for name, value in lowered if name == b"connection").lower().split(b",")
    dropped = _HOP_BY_HOP | without | {name.strip() for name in named}
    return [(name, value) for name, value in lowered if name not in dropped]


def _call(scope: Scope) -> str:
    """The name of the Fleet API's call that a request is; empty if it is none."""
    found = _CALL.fullmatch(scope["raw_path"])
    return found[1].decode() if found and scope["query_string"] == b"" else ""


def _address(request: Request) -> str:
    return request.client.host if request.client else "-"


def _line(scope: Scope) -> str:
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return f"{scope['method']} {(scope['raw_path'] + query).decode('ascii')} HTTP/{scope['http_version']}"


def _note(address: str, status: int, taken: int = 0, given: int = 0, line: str = "") -> None:
    """Write what nginx would into the log of requests."""
    _access.info("%s %d %d %d %s", address, status, taken, given, json.dumps(line[:500]))


def _log_requests(path: str) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    _access.addHandler(handler)
    _access.setLevel(logging.INFO)
    _access.propagate = False


class _Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, with the time that a TLS handshake may take, which uvicorn does not ask for."""

    handshake = 0.0

    async def create_server(self, *words: Any, **options: Any) -> asyncio.Server:
        return await super().create_server(*words, **options, ssl_handshake_timeout=self.handshake)


def _tls(_config: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    return context


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises OSError for an address that is taken."""
    _log_requests(settings.log)
    limits = httpx.Limits(  # the SuperLink closes after 5 seconds
        max_connections=settings.connections, max_keepalive_connections=16, keepalive_expiry=4.0
    )
    six, four = socket.AF_INET6, socket.AF_INET
    listeners = [socket.create_server((a, p), family=six if ":" in a else four) for a, p in settings.listen]
    trusted = ssl.create_default_context(cafile=settings.authority)
    async with httpx.AsyncClient(verify=trusted, limits=limits, trust_env=False) as superlink:
        config = uvicorn.Config(
            FleetProxy(settings, superlink),
            http=partial(Connection, settings=settings),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,  # an address is what the connection comes from
            server_header=False,
            date_header=False,
            timeout_keep_alive=settings.idle,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=settings.head_size,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            ssl_context_factory=_tls,
        )
        await uvicorn.Server(config).serve(listeners)


def main(arguments: list[str]) -> None:
    """Serve what a file of settings, in JSON, says."""
    settings = Settings(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # Each connection may need another to the SuperLink, and some are in their handshake.
    wanted, (_, most) = 4 * settings.connections, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most) if most >= 0 else wanted, most))
    _Loop.handshake = settings.head_time
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
