"""A Grid whose nodes are scripted, and a clock that only pauses move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message, RecordDict

from privacy.identity import Identity
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, Opened, open_envelope, seal
from protocol.messages.flower import unwrap, wrap
from server.post.sealed_post import Clock, Member, SealedPost
from simulation.grid import InProcessGrid

COORDINATORS = Identity.generate()

# What a node makes of an envelope: the bytes of its answer, a failure, a record, or None for silence.
Node = Callable[[bytes], bytes | Error | RecordDict | None]


@cache
def identity(site: str) -> Identity:
    return Identity.generate()


@cache
def node_key(site: str) -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP384R1()).public_key()


def joined(site: str) -> Reply:
    return Reply(site=site, joined=pb.Joined(manifest_digest=b"m" * 32, public_key=identity(site).public))


def member(site: str) -> Member:
    der = node_key(site).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Member(identity=identity(site).public, node=der)


def node_pem(site: str) -> bytes:
    return node_key(site).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def opened(site: str, content: bytes) -> Opened:
    return open_envelope(content, public_key=COORDINATORS.public, sender=COORDINATOR, receiver=site)


def sealed(site: str, content: bytes, reply: Reply | bytes | None = None, **changes: Any) -> bytes:
    """A site's answer to an envelope, its header and signer changed as given."""
    header = opened(site, content).header
    reply = joined(site) if reply is None else reply
    fields = {
        "run": header.run,
        "round_number": header.round,
        "sender": site,
        "receiver": COORDINATOR,
        "counter": header.counter,
        "sent": header.sent,
        "expires": header.expires,
    }
    signer = changes.pop("signer", identity(site))
    payload = reply if isinstance(reply, bytes) else reply.SerializeToString()
    return seal(signer, payload, **(fields | changes))


class Ticking:
    """Seconds that only pauses move, and what happens at some of them."""

    def __init__(self) -> None:
        self.time = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def pause(self, seconds: float) -> None:
        self.time += seconds
        due = [event for event in self.events if event[0] <= self.time]
        self.events = [event for event in self.events if event[0] > self.time]
        for _, happen in due:
            happen()

    def at(self, seconds: float, happen: Callable[[], object]) -> None:
        self.events.append((seconds, happen))

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.time, now=lambda: 1e9 + self.time, pause=self.pause)


@dataclass
class Connected:
    """A node as the SuperLink tells of it."""

    node_id: int
    public_key: bytes
    last_activated_at: str = "first"


@dataclass(frozen=True)
class Sent:
    """A message that was pushed, and when."""

    time: float
    site: str
    content: bytes
    ttl: float


@dataclass
class Mail:
    """The grid, and what crossed it."""

    ticking: Ticking = field(default_factory=Ticking)
    nodes: dict[str, Connected] = field(default_factory=dict)
    does: dict[str, Node] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    counter: int = 0

    def __post_init__(self) -> None:
        self.grid = _Grid(self)

    def connect(self, *sites: str) -> None:
        for site in sites:
            self.nodes[site] = Connected(1 + len(self.nodes), node_pem(site))
            self.does.setdefault(site, lambda content, site=site: sealed(site, content))

    def take_counter(self) -> int:
        self.counter += 1
        return self.counter

    def post(self, *sites: str) -> SealedPost:
        return SealedPost(
            self.grid,
            run="tweets-1",
            identity=COORDINATORS,
            members={site: member(site) for site in sites},
            take_counter=self.take_counter,
            tell=self.told.append,
            clock=self.ticking.clock,
        )

    def times(self, site: str) -> list[float]:
        """When messages were sent to a site, in seconds to the poll."""
        return [round(sent.time, 1) for sent in self.sent if sent.site == site]

    def contents(self, site: str) -> list[bytes]:
        return [sent.content for sent in self.sent if sent.site == site]


class _Grid(InProcessGrid):
    def __init__(self, mail: Mail) -> None:
        super().__init__({})
        self.mail = mail
        self.waiting: dict[str, list[Message]] = {}
        self.refuses: list[list[Any]] = []  # what the next pushes give instead of identifiers
        self.drops: dict[str, Any] = {}  # what a site's next message gets instead of its identifier
        self.empties = 0  # how many of the next answers carry nothing
        self.also: list[Message] = []  # what the next pull gives besides

    def get_nodes(self) -> Iterable[Any]:
        return list(self.mail.nodes.values())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[Any]:
        if self.refuses:
            return self.refuses.pop(0)
        identifiers = []
        for message in messages:
            node = message.metadata.dst_node_id
            site = next(name for name, known in self.mail.nodes.items() if known.node_id == node)
            if site in self.drops:
                identifiers.append(self.drops.pop(site))
                continue
            content = unwrap(message.content)
            identifier = f"m{len(self.mail.sent)}"
            message.metadata.__dict__["_message_id"] = identifier  # as Flower does
            self.mail.sent.append(Sent(self.mail.ticking.time, site, content, message.metadata.ttl))
            answer = self.mail.does[site](content)
            if answer is not None:
                self.waiting[identifier] = [reply_to(message, answer)]
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        also, self.also = self.also, []
        found = [m for i in message_ids for m in self.waiting.pop(i, [])] + also
        for message in found[: self.empties]:
            message.__dict__["_content"] = None
            self.empties -= 1
        return found


def reply_to(message: Message, answer: bytes | Error | RecordDict) -> Message:
    if isinstance(answer, bytes):
        answer = wrap(answer)
    return Message(answer, reply_to=message)
