"""Sites with a site.toml, agents that serve, and a coordinator that seals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import tomli_w

from client.agent.agent import Agent
from client.agent.listening import listen_on_socket
from client.agent.mailbox import Mailbox
from client.agent.quota import Intake
from client.agent.worker import Worker
from privacy.identity import Identity
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.messages.channel import in_chunks, open_channel
from protocol.messages.confide_pb2 import Evaluate, Join, Joined, Refused, Reply, Request, Train
from protocol.messages.confide_pb2_grpc import AgentStub
from protocol.messages.envelope import COORDINATOR, Opened, open_envelope, seal
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World
from tests import tiny

SITE = "north"
NOW = 1_800_000_000.0


def site_table(folder: Path, coordinator: Identity, **changes: Any) -> dict[str, Any]:
    """A whole site.toml as tables, for the tiny job in ``folder``."""
    whole: dict[str, Any] = {
        "site": {"name": SITE, "coordinator": "localhost:8443"},
        "data": {"data": {"source": str(folder / "data.csv"), "label": "label", "labels": ["no", "yes"]}},
        "models": {str(folder / "model"): str(folder / "model")},
        "budget": {"epsilon": 24.0, "delta": 0.01},
        "rules": {"coordinator": coordinator.public.hex(), "metrics_epsilon": 1.0},
    }
    for section, values in changes.items():
        whole[section] = {**whole.get(section, {}), **values}
    return whole


def write_site(home: Path, folder: Path, coordinator: Identity, **changes: Any) -> Path:
    """A home with a site.toml: the file."""
    if not (folder / "data.csv").exists():
        tiny.table(folder)
    home.mkdir(parents=True, exist_ok=True)
    path = home / "site.toml"
    path.write_text(tomli_w.dumps(site_table(folder, coordinator, **changes)))
    return path


class Coordinator:
    """Seals requests to one site, with counters that grow."""

    def __init__(self, identity: Identity | None = None, *, clock: float | None = None) -> None:
        self.identity = identity or Identity.generate()
        self.counter = 0
        self._clock = clock

    def seal(self, request: Request | bytes, *, identity: Identity | None = None, **changes: Any) -> bytes:
        self.counter += 1
        now = time.time() if self._clock is None else self._clock
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        fields = {
            "run": "run",
            "round_number": 0,
            "sender": COORDINATOR,
            "receiver": SITE,
            "counter": self.counter,
            "sent": now,
            "expires": now + 600,
        }
        return seal(identity or self.identity, payload, **(fields | changes))

    def join(self, manifest: Manifest, **changes: Any) -> bytes:
        signature = self.identity.sign(MANIFEST_PURPOSE, manifest.content)
        request = Request(join=Join(manifest=manifest.content, signature=signature))
        return self.seal(request, **({"run": manifest.run} | changes))

    def train(self, manifest: Manifest, world: World, number: int = 1, **changes: Any) -> bytes:
        adapter = to_bytes(world.initial_adapter)
        request = Request(train=Train(manifest_digest=manifest.digest, round=number, adapter=adapter))
        return self.seal(request, **({"run": manifest.run, "round_number": number} | changes))

    def evaluate(self, manifest: Manifest, world: World) -> bytes:
        adapter = to_bytes(world.initial_adapter)
        request = Request(evaluate=Evaluate(manifest_digest=manifest.digest, adapter=adapter))
        return self.seal(request, run=manifest.run)


class Echo:
    """Answers at once, or when it is let; counts what it answered."""

    def __init__(self) -> None:
        self.answered: list[bytes] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Event()
        self.let.set()
        self.refuse = self.lost = False

    def answer(self, opened: Opened) -> bytes:
        self.begun.release()
        self.let.wait(20)
        self.answered.append(opened.payload)
        if self.refuse:
            return Reply(site=SITE, refused=Refused(reason="no", lost=self.lost)).SerializeToString()
        return Reply(site=SITE, joined=Joined(manifest_digest=opened.payload)).SerializeToString()


class Served:
    """An agent on a socket, and a way to deliver to it."""

    def __init__(self, path: Path, worker: Worker, identity: Identity, server: grpc.Server) -> None:
        self.path = path
        self.server = server
        self.worker = worker
        self._site = identity.public

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    def deliver(self, envelope: bytes) -> Reply:
        """The reply in the sealed answer to an envelope. Raises grpc.RpcError."""
        return Reply.FromString(self.open(self.raw(iter(in_chunks(envelope)))).payload)

    def raw(self, chunks: Iterator[Any]) -> bytes:
        with open_channel(self.address, None) as channel:
            return b"".join(chunk.data for chunk in AgentStub(channel).Deliver(chunks, timeout=30))

    def open(self, sealed: bytes) -> Opened:
        return open_envelope(sealed, public_key=self._site, sender=SITE, receiver=COORDINATOR)


@contextmanager
def serving(
    folder: Path,
    coordinator: Identity,
    answerer: Any,
    *,
    queue: int = 4,
    intake: Intake | None = None,
    transfer_seconds: float = 60.0,
) -> Iterator[Served]:
    """An agent with this in the place of a site."""
    identity = Identity.generate()
    mailbox = Mailbox(folder / "outbox", site=SITE, identity=identity, coordinator=coordinator.public)
    worker = Worker(mailbox, queue=queue)
    agent = Agent(mailbox, worker, site=SITE, intake=intake, transfer_seconds=transfer_seconds)
    server = agent.make_server()
    listen_on_socket(server, folder / "a.sock", group=None)
    worker.start(answerer)
    server.start()
    try:
        yield Served(folder / "a.sock", worker, identity, server)
    finally:
        worker.stop()
        server.stop(0).wait()
        assert worker.join(20)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    return error.code()
