"""What reaches the SuperLink through each of the proxies, and what never does. The SuperLink is a stand-in
that writes down every request."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from privacy.errors import UserError
from protocol.processes.flower_process import Child
from server.provisioning.authority import loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.proxy import PROXIES, find_nginx, proxy_configuration, proxy_listens
from server.service.superlink import Endpoint, wait_until
from tests.ports import free_port
from tests.server.coordinators import make_coordinator

SLOW = 1  # second until a client is too slow, in place of ten and more


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A request as the SuperLink would have seen it."""

    line: str
    headers: dict[str, str]
    body: bytes


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    reached: list[Reached]

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # a request that was broken off is none
            self.close_connection = True
            return
        # One that comes twice is seen twice: a client's word of itself could stand beside the proxy's.
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        self.reached.append(Reached(line=self.requestline, headers=headers, body=body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """What a site can do: send bytes to the federation's address and read what comes back."""

    def __init__(self, folder: CoordinatorFolder, reached: list[Reached]) -> None:
        self.folder, self.reached = folder, reached

    def send(self, raw: bytes) -> tuple[int, bytes]:
        """The status of the first answer, and everything that came until the other end closed."""
        self.reached.clear()
        federation = self.folder.federation
        context = ssl.create_default_context(cafile=str(self.folder.authority_certificate))
        with (
            socket.create_connection((federation.host, federation.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=federation.host) as secure,
        ):
            secure.sendall(raw)
            received = b""
            while piece := secure.recv(65536):
                received += piece
        return int(received.split()[1]) if received else 0, received

    def post(self, target: str, *headers: str, body: bytes = b"", version: str = "1.1") -> int:
        lines = [f"POST {target} HTTP/{version}", *headers, f"Content-Length: {len(body)}"]
        if not any(line.lower().startswith("host:") for line in headers):
            lines.insert(1, "Host: localhost")
        lines.append("Connection: close")
        return self.send("\r\n".join([*lines, "", ""]).encode() + body)[0]


def shorten_times(folder: CoordinatorFolder, kind: str) -> None:
    """Let nobody wait long: in what the proxy reads when it starts."""
    if kind == "nginx":
        path = folder.proxy / "nginx.conf"
        text = path.read_text()
        for name, usual in (("header", "10s"), ("body", "30s")):
            assert f"client_{name}_timeout {usual};" in text
            text = text.replace(f"client_{name}_timeout {usual};", f"client_{name}_timeout {SLOW}s;")
        path.write_text(text)
    else:
        path = folder.proxy / "embedded.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"head_time": SLOW, "pause": SLOW}))


# nginx passes what the embedded proxy passes.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=[pytest.mark.process] * (kind == "nginx")) for kind in sorted(PROXIES)
    ],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if request.param == "nginx" and find_nginx() is None:
        pytest.skip("nginx is not installed")
    folder = make_coordinator(tmp_path_factory.mktemp("proxy"))
    key, certificate = loopback_certificate(folder.flower_home)
    reached: list[Reached] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Recorder,), {"reached": reached}))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = Endpoint(
        host="127.0.0.1",
        port=server.server_address[1],
        certificate=certificate,
        key=key,
        authority=certificate,
    )
    child = Child(PROXIES[request.param](folder, endpoint), say=print)
    shorten_times(folder, request.param)
    child.start()
    try:
        ready = wait_until(
            lambda: proxy_listens(folder),
            alive=lambda: child.pid is not None,
            pause=threading.Event().wait,
        )
        assert ready, child.last_words
        yield Site(folder, reached)
    finally:
        child.stop()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/health",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/runtime/pull-messages",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/?",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages?x=/../../control/start-run",
        "/v1/fleet/pull-messages;x",
        "/v1/fleet/pull-messages#x",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..;/control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/%2E%2E%2Fcontrol%2Fstart-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%252e%252e/control/start-run",
        "/v1/fleet/..\\control\\start-run",
        "/v1/control/../fleet/pull-messages",
        "/v1/control/%2e%2e/fleet/pull-messages",
        "//v1/control/start-run",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/v1/fleet//pull-messages",
        "/./v1/fleet/pull-messages",
        "/V1/FLEET/PULL-MESSAGES",
        "/v1/Fleet/pull-messages",
        "/v1/control/START-RUN",
        "/%76%31/fleet/pull-messages",
        "/v1/fleet/pull%2dmessages",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages%0d%0aX:%20y",
        "https://localhost/v1/control/start-run",
        "http://127.0.0.1/v1/control/start-run",
        "https://localhost/v1/fleet/../control/start-run",
        "https://localhost",
        "*",
        "v1/fleet/pull-messages",
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.exhaustive(but=16)
def test_nothing_but_a_call_of_the_fleet_api_reaches_the_superlink(
    site: Site, target: str, version: str
) -> None:
    assert site.post(target, version=version) in (400, 404)
    assert site.reached == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "superlink", "localhost/v1/control", "a b", "", "x\r\nHost: y"]
)
def test_no_host_leads_elsewhere(site: Site, host: str) -> None:
    assert site.post("/v1/control/start-run", f"Host: {host}") in (400, 404)
    assert site.reached == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post"])
def test_only_posts_pass(site: Site, method: str) -> None:
    raw = f"{method} /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert site.send(raw.encode())[0] in (400, 405)
    assert site.reached == []


INNER = b"POST /v1/control/start-run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Content-Length: 0\r\nContent-Length: 90",
        b"Content-Length: +5",
        b"Content-Length: 0\r\n Transfer-Encoding: chunked",
    ],
)
def test_no_request_is_smuggled_in_another(site: Site, headers: bytes) -> None:
    start = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\n"
    end = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    site.send(start + headers + b"\r\n\r\n0\r\n\r\n" + INNER + end)
    # Whatever the proxy makes of it, what passes is a call of the Fleet API, with one length.
    for request in site.reached:
        assert request.line == "POST /v1/fleet/pull-messages HTTP/1.1"
        assert "transfer-encoding" not in request.headers
        assert b"control" not in request.body


def test_a_body_without_a_length_is_refused_or_given_one(site: Site) -> None:
    """The embedded proxy passes none on; nginx reads it whole, and counts."""
    status, _ = site.send(
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    if (site.folder.proxy / "embedded.json").exists():
        assert (status, site.reached) == (411, [])
    else:
        assert status == 200
        assert [(r.body, r.headers["content-length"]) for r in site.reached] == [(b"abc", "3")]


def test_a_body_that_looks_like_a_request_stays_a_body(site: Site) -> None:
    assert site.post("/v1/fleet/pull-messages", body=INNER) == 200
    assert [(r.line, r.body) for r in site.reached] == [("POST /v1/fleet/pull-messages HTTP/1.1", INNER)]


def test_an_upgrade_is_not_passed_on(site: Site) -> None:
    assert site.post("/v1/fleet/pull-messages", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ") == 200
    assert "upgrade" not in site.reached[0].headers


@pytest.mark.parametrize("target", ["/v1/fleet/pull-messages", "https://x/v1/fleet/pull-messages"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_call_passes_with_what_its_node_signed(site: Site, target: str, version: str) -> None:
    signed = {
        "flwr-public-key": "QUFB+/=",
        "flwr-signature": "c2ln" * 40,
        "flwr-timestamp": "2026-11-22T05:00:00.000001+00:00",
        "content-type": "application/x-protobuf",
    }
    headers = [f"{name}: {value}" for name, value in signed.items()]
    body = os.urandom(1000)
    assert site.post(target, *headers, body=body, version=version) == 200
    (request,) = site.reached
    assert request.line == "POST /v1/fleet/pull-messages HTTP/1.1"
    assert request.body == body
    assert signed.items() <= request.headers.items()


def test_nobody_says_that_they_are_someone_else(site: Site) -> None:
    forged = ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: http", "Host: evil.example"]
    assert site.post("/v1/fleet/pull-messages", *forged) == 200
    headers = site.reached[0].headers
    assert headers["x-forwarded-for"] in ("127.0.0.1", "::1")
    assert headers["x-forwarded-proto"] == "https"
    assert headers["host"].startswith("127.0.0.1:")


def test_pieces_of_5_mib_pass_and_too_much_does_not(site: Site) -> None:
    piece = os.urandom(5 * 2**20 + 4096)
    assert site.post("/v1/fleet/push-object", body=piece) == 200
    assert site.reached[0].body == piece
    assert site.post("/v1/fleet/push-object", "Expect: 100-continue", body=b"") in (100, 200)
    raw = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
    assert site.send(raw)[0] == 413
    assert site.reached == []


def test_what_is_refused_is_closed_and_says_nothing_of_the_server(site: Site) -> None:
    _, answer = site.send(b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n" + INNER)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert not any(name in answer for name in (b"nginx/", b"uvicorn", b"BaseHTTP", b"ython"))


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/fleet/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n" + b"X: aaaaaaaa\r\n" * 10_000 + b"\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n",
        b"POST  /v1/fleet/pull-messages HTTP/9.9\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\0",
    ],
    ids=["url", "header", "headers", "length", "no host", "two hosts", "nul", "version", "h2", "tls"],
)
def test_what_is_no_request_or_too_long_is_turned_away(site: Site, raw: bytes) -> None:
    # Some of it is still on its way when the proxy closes, so that no answer need arrive.
    try:
        status, _ = site.send(raw)
    except (ConnectionError, ssl.SSLError):
        status = 0
    assert status in (0, 400, 404, 413, 414, 431, 505)
    assert site.reached == []


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v1/fleet/pull-mess",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nX-Slow: a",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    ],
    ids=["silent", "request line", "headers", "body"],
)
@pytest.mark.exhaustive(but=1)
def test_whoever_is_too_slow_is_cut_off(site: Site, begun: bytes) -> None:
    assert site.send(begun)[0] in (0, 408)
    assert site.reached == []


def test_a_second_request_on_a_connection_has_no_longer(site: Site) -> None:
    first = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    status, answer = site.send(first + b"POST /v1/fl")
    assert status == 200
    assert answer.count(b"HTTP/1.1 200") == 1
    assert len(site.reached) == 1


def test_requests_on_one_connection_are_answered_in_order(site: Site) -> None:
    ask = b"POST /v1/fleet/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n%s\r\nhi"
    _, answer = site.send(ask % (b"one", b"") + ask % (b"two", b"Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [request.line.split("/")[3] for request in site.reached] == ["one HTTP", "two HTTP"]


def test_what_concerns_one_connection_stays_there(site: Site) -> None:
    assert (
        site.post("/v1/fleet/pull-messages", "TE: trailers", "Keep-Alive: 9", "Proxy-Connection: x") == 200
    )
    headers = site.reached[0].headers
    assert "expect" not in headers
    assert "transfer-encoding" not in headers
    assert headers.get("connection", "") in ("", "keep-alive")


def test_whoever_does_not_even_shake_hands_is_cut_off(site: Site) -> None:
    federation = site.folder.federation
    with socket.create_connection((federation.host, federation.port), timeout=30) as plain:
        assert plain.recv(1) == b""


def test_old_tls_is_refused(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    federation = site.folder.federation
    with (
        socket.create_connection((federation.host, federation.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def _endpoint(folder: CoordinatorFolder) -> Endpoint:
    key, certificate = loopback_certificate(folder.flower_home)
    return Endpoint(
        host="127.0.0.1", port=free_port(), certificate=certificate, key=key, authority=certificate
    )


def test_it_listens_where_the_address_says(tmp_path: Path) -> None:
    near = make_coordinator(tmp_path / "near", host="127.0.0.1", port=8443)
    text = proxy_configuration(near, _endpoint(near))
    assert text.count("listen ") == 1
    assert "listen 127.0.0.1:8443 ssl" in text
    far = make_coordinator(tmp_path / "far", host="fl.example.org", port=8443)
    assert "listen 0.0.0.0:8443 ssl" in proxy_configuration(far, _endpoint(far))


def test_a_path_that_nginx_would_misread_is_refused(tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path / "it's; $here {")
    with pytest.raises(UserError, match="nginx cannot use the path"):
        proxy_configuration(folder, _endpoint(folder))
