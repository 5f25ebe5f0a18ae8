"""A SuperLink that is not to be trusted: where its answers lead, and how long they take."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from queue import Queue

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Message, RecordDict

from protocol.messages.flower import wrap
from protocol.processes import careful_client
from protocol.processes.flower_internals import Fleet, connect_to_fleet, deflate, identify_process

PATIENCE = 20.0  # seconds; nothing is measured by it
Answer = tuple[int, dict[str, str], bytes]

# Flower's messages of one number each: that of the node, and whether it is known.
ACTIVE: Answer = (200, {}, b"\x08\x07")
ALIVE: Answer = (200, {}, b"\x08\x01")


class Scripted(ThreadingHTTPServer):
    """Answers what ``answers`` says for a path's last word, 404 else; ``asked`` are the words in order."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer | Callable[[], Answer]]) -> None:
        self.answers, self.asked, self.changed = answers, [], threading.Condition()
        super().__init__(("127.0.0.1", 0), _Handler)

    def wait_for(self, word: str, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked.count(word) >= count, PATIENCE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        word = self.path.rpartition("/")[2]
        with self.server.changed:
            self.server.asked.append(word)
            self.server.changed.notify_all()
        given = self.server.answers.get(word, (404, {}, b""))
        status, headers, body = given() if callable(given) else given
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def serving(server: Scripted) -> Iterator[Scripted]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with closing(server.socket):
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority's, and its key."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "crt", folder / "key"


@contextmanager
def connected(
    certified: tuple[Path, Path], answers: dict[str, Answer | Callable[[], Answer]]
) -> Iterator[tuple[Scripted, Fleet]]:
    """A SuperLink with such answers, and a node's connection to it."""
    identify_process(run_id=1, node_id=7, task_id=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certified)
    superlink = Scripted({"activate-node": ACTIVE, "send-node-heartbeat": ALIVE} | answers)
    superlink.socket = context.wrap_socket(superlink.socket, server_side=True)
    key = ec.generate_private_key(ec.SECP384R1())
    problem: BaseException | None = None
    with serving(superlink):
        address = f"127.0.0.1:{superlink.server_port}"
        with connect_to_fleet(address, authority=certified[0], key=key) as fleet:
            try:
                yield superlink, fleet
            except BaseException as error:  # Flower would write it down and go on
                problem = error
    if problem is not None:
        raise problem


def message_with(content: RecordDict) -> Message:
    return Message(content, 7, "train", group_id="1")


def announced(content: bytes = b"x") -> tuple[Message, object]:
    """A message as a node hears of it, whose content it has to fetch, and the tree of its objects."""
    return message_with(RecordDict()), deflate(message_with(wrap(content)))[0]


ASKS: dict[str, Callable[[Fleet], object]] = {
    "pull-messages": lambda fleet: fleet.receive(),
    "pull-object": lambda fleet: fleet.fetch(*announced(), seconds=1.0, take=lambda _count: None),
    "push-messages": lambda fleet: fleet.answer(message_with(wrap(b"x")), seconds=0.0),
    "confirm-message-received": lambda fleet: fleet.confirm_received(1, "x"),
}


@pytest.mark.parametrize("status", [301, 303, 307])
def test_no_answer_leads_the_node_elsewhere(certified: tuple[Path, Path], status: int) -> None:
    """A redirect would have it ask any host of the site's network, with what it sends the SuperLink."""
    with serving(Scripted({})) as inside:
        place = f"http://127.0.0.1:{inside.server_port}/admin/delete"
        answers = dict.fromkeys([*ASKS, "send-node-heartbeat"], (status, {"location": place}, b""))
        with connected(certified, answers) as (link, fleet):
            for word, ask in ASKS.items():
                with pytest.raises(httpx.HTTPStatusError, match="Redirect response"):
                    ask(fleet)
                assert link.asked.count(word) == 1
            link.wait_for("send-node-heartbeat", 1)
        assert inside.asked == []


@pytest.mark.parametrize(
    "useless",
    [
        (200, {}, b"\xff\xff"),
        (200, {"content-encoding": "gzip"}, b"no gzip at all"),
        (303, {"location": "/"}, b""),
        (500, {}, b""),
    ],
    ids=["no message", "no gzip", "elsewhere", "an error"],
)
def test_a_heartbeat_whose_answer_is_of_no_use_goes_out_again(
    certified: tuple[Path, Path], useless: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with connected(certified, {"send-node-heartbeat": useless}) as (link, _):
        link.wait_for("send-node-heartbeat", 1)
        link.answers["send-node-heartbeat"] = ALIVE
        link.wait_for("send-node-heartbeat", 2)
    assert failed == []


def test_a_node_that_the_superlink_refuses_ends(
    certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: Queue[threading.ExceptHookArgs] = Queue()
    monkeypatch.setattr(threading, "excepthook", failed.put)
    with connected(certified, {"send-node-heartbeat": (404, {}, b"")}):
        assert failed.get(timeout=PATIENCE).exc_type is httpx.HTTPStatusError


def test_an_answer_ends_in_time(certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(certified, {"pull-messages": ACTIVE}) as (_, fleet):
        monkeypatch.setattr(careful_client, "_LONGEST_ANSWER", -1.0)
        with pytest.raises(httpx.RequestError, match="expected an answer in"):
            fleet.receive()


def test_nothing_is_asked_for_a_message_that_was_given_up() -> None:
    """One object is refused at once; the other, for which the SuperLink is away, is not asked for again."""
    begun, over, ended = threading.Event(), threading.Event(), threading.Event()
    names: list[str] = []

    def pull(_run: int, name: str) -> bytes:
        names.append(name)
        if len(names) == 1:
            begun.set()
            assert over.wait(PATIENCE)
            try:
                careful_client._check_wanted()
            except httpx.RequestError:
                ended.set()
        assert begun.wait(PATIENCE)
        raise RuntimeError("refused")

    identify_process(run_id=1, node_id=7, task_id=1)
    fleet = Fleet(
        receive=lambda: None,
        announce=lambda *_: (set(), ""),
        pull_object=pull,
        push_object=lambda *_: None,
        confirm_received=lambda *_: None,
    )
    with pytest.raises(RuntimeError, match="refused"):
        fleet.fetch(*announced(bytes(3 << 20)), seconds=1.0, take=lambda _count: None)
    over.set()
    assert ended.wait(PATIENCE)
    assert len(names) == 2
