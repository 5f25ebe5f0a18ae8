"""The relay: small, patient, and without a key."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from client.agent.agent import Agent
from client.agent.health import ask_health
from client.agent.listening import listen_with_tls, relay_certificate
from client.agent.mailbox import Mailbox
from client.agent.worker import Worker
from client.custody.site_file import read_site_file
from client.relay.delivery import deliver
from client.relay.relay_app import app
from privacy.errors import KeyFileError, ProtocolError, RunError
from privacy.identity import Identity
from protocol.messages.channel import CHUNK_BYTES, open_channel
from protocol.messages.confide_pb2 import HealthRequest, Reply
from protocol.messages.confide_pb2_grpc import AgentStub
from protocol.messages.flower import unwrap, wrap
from protocol.messages.site_keys import make_site_keys
from protocol.processes.flower_internals import identify_process
from tests.client.agents import NOW, SITE, Coordinator, Echo, Served, serving, write_site

FORBIDDEN = ["torch", "transformers", "peft", "opacus", "pyarrow", "scipy", "pydantic", "client.site"]


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def served(tmp_path: Path, coordinator: Coordinator, echo: Echo) -> Iterator[Served]:
    with serving(tmp_path, coordinator.identity, echo) as found:
        yield found


def through_flower(envelope: bytes, **node_config: Any) -> bytes:
    """Hand an envelope to the app as Flower does."""
    identify_process(run_id=1, node_id=2, task_id=3)
    message = Message(wrap(envelope), 2, MessageType.TRAIN)
    context = Context(run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config={})
    return unwrap(app(message, context).content)


class Time:
    """A clock that a pause moves on."""

    def __init__(self) -> None:
        self.now = NOW
        self.pauses = 0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


def test_it_starts_with_nothing_that_touches_data_or_models() -> None:
    code = "import sys, client.relay.relay_app, client.relay.relay_process; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"client.relay.relay_app", "client.relay.relay_process"} <= loaded
    assert loaded.isdisjoint(FORBIDDEN)


def test_an_envelope_goes_through_flower_and_back(served: Served, coordinator: Coordinator) -> None:
    payload = bytes(3 * CHUNK_BYTES + 5)
    answer = served.open(through_flower(coordinator.seal(payload, round_number=3), agent=served.address))
    assert Reply.FromString(answer.payload).joined.manifest_digest == payload
    assert (answer.header.counter, answer.header.round) == (1, 3)


def test_a_node_without_an_agent_says_so(coordinator: Coordinator) -> None:
    with pytest.raises(Exception, match="node config lacks agent"):
        through_flower(coordinator.seal(b"x"))


def test_what_the_agent_turns_away_is_not_asked_again(
    served: Served, coordinator: Coordinator, echo: Echo
) -> None:
    time = Time()
    for envelope in (coordinator.seal(b"x", receiver="south"), coordinator.seal(b"x", expires=1.0)):
        with pytest.raises(ProtocolError, match="turned the envelope away: "):
            deliver(envelope, served.address, clock=time, pause=time.pause)
    with pytest.raises(ProtocolError, match="not an envelope"):
        deliver(b"hello", served.address)
    assert (time.pauses, echo.answered) == (0, [])


def test_it_waits_for_an_agent_until_the_envelope_expires(tmp_path: Path) -> None:
    time = Time()
    envelope = Coordinator(clock=NOW).seal(b"x", expires=NOW + 2)
    with pytest.raises(RunError, match="could not be reached before the envelope expired"):
        deliver(envelope, f"unix:{tmp_path}/a.sock", clock=time, pause=time.pause)
    assert time.pauses == 3


def test_an_agent_that_stops_mid_call_is_asked_again_in_its_next_life(
    tmp_path: Path, coordinator: Coordinator
) -> None:
    """The relay waits in one call, the agent goes away under it, and another one answers."""
    first, second = Echo(), Echo()
    first.let.clear()
    next_life = threading.Event()
    envelope, address = coordinator.seal(b"asked"), f"unix:{tmp_path}/a.sock"

    with ThreadPoolExecutor(1) as pool:
        with serving(tmp_path, coordinator.identity, first) as served:
            asked = pool.submit(deliver, envelope, address, pause=lambda _seconds: next_life.wait(20))
            assert first.begun.acquire(timeout=20)
            served.server.stop(0).wait()  # its calls end while its worker still works
            first.let.set()
        with serving(tmp_path, coordinator.identity, second) as after:
            next_life.set()
            reply = Reply.FromString(after.open(asked.result(20)).payload)
    assert reply.joined.manifest_digest == b"asked"


def test_a_full_agent_is_asked_again(tmp_path: Path, coordinator: Coordinator, echo: Echo) -> None:
    echo.let.clear()
    with serving(tmp_path, coordinator.identity, echo, queue=1) as served, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(served.deliver, coordinator.seal(b"0"))]
        assert echo.begun.acquire(timeout=20)
        calls.append(pool.submit(served.deliver, coordinator.seal(b"1")))
        while served.worker.status().queued < 1:
            pass
        refused = threading.Event()

        def pause(_seconds: float) -> None:
            refused.set()
            echo.let.set()

        third = pool.submit(deliver, coordinator.seal(b"2"), served.address, pause=pause)
        assert refused.wait(20)
        assert [call.result(20).HasField("joined") for call in calls] == [True, True]
        assert served.open(third.result(20)).header.counter == 3


# Over TLS.


@pytest.fixture
def homes(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> dict[str, Path]:
    """Two sites with keys of their own, each with an address to listen on."""
    found = {}
    for name in ("north", "south"):
        home = tmp_path / name
        make_site_keys(home, now=datetime.now(UTC))
        write_site(home, tiny_folder, coordinator.identity, agent={"listen": "127.0.0.1:0"})
        found[name] = home
    return found


@pytest.fixture
def tls(homes: dict[str, Path], coordinator: Coordinator, echo: Echo) -> Iterator[str]:
    home, identity = homes["north"], Identity.generate()
    mailbox = Mailbox(
        home / "outbox", site=SITE, identity=identity, coordinator=coordinator.identity.public
    )
    worker = Worker(mailbox, queue=4)
    server = Agent(mailbox, worker, site=SITE, pinned=relay_certificate(home)).make_server()
    port = listen_with_tls(server, "127.0.0.1:0", home=home)
    worker.start(echo)
    server.start()
    yield f"127.0.0.1:{port}"
    worker.stop()
    server.stop(0).wait()


def test_over_tls_the_relays_own_certificate_opens_the_way(
    tls: str, homes: dict[str, Path], coordinator: Coordinator
) -> None:
    keys = homes["north"] / "relay"
    assert through_flower(coordinator.seal(b"x"), agent=tls, relay=str(keys))
    site_file = read_site_file(homes["north"] / "site.toml")
    relay = site_file.relay.model_copy(update={"agent": tls})
    health = ask_health(homes["north"], site_file.model_copy(update={"relay": relay}))
    assert health is not None
    assert health.site == SITE


def test_over_tls_nobody_else_is_served_and_no_other_agent_believed(
    tls: str, homes: dict[str, Path], tmp_path: Path
) -> None:
    north, south = homes["north"], homes["south"]
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name, place in (("agent.crt", north), ("relay.crt", south), ("relay.key", south)):
        (mixed / name).write_bytes((place / "relay" / name).read_bytes())
    channels = [
        grpc.insecure_channel(tls),
        open_channel(tls, south / "relay"),
        open_channel(tls, mixed),
        grpc.secure_channel(
            tls,
            grpc.ssl_channel_credentials((north / "agent.crt").read_bytes()),
            options=(("grpc.ssl_target_name_override", "confide-agent"),),
        ),
    ]
    for channel in channels:
        with channel, pytest.raises(grpc.RpcError) as caught:
            AgentStub(channel).Health(HealthRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_keys_that_are_missing_are_named(homes: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected the folder of relay\.key"):
        open_channel("localhost:1", None)
    with pytest.raises(RunError, match="cannot be read"):
        open_channel("localhost:1", tmp_path)
    (homes["north"] / "relay" / "relay.crt").write_text("nothing")
    with pytest.raises(KeyFileError, match="holds no certificate"):
        relay_certificate(homes["north"])
