"""Envelopes: who sent what to whom, in which run and round, signed by the sender.

The header is canonical JSON, and the signature is over the header alone; the payload hangs on it by its
digest. Every field below is in it, so none can be changed, and an envelope fits no other run, round,
receiver or place in the order than its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from google.protobuf.message import DecodeError

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from privacy.identity import Identity, verify
from protocol.messages import confide_pb2 as pb

ENVELOPE_PURPOSE = "envelope"
TURNED_AWAY = "the site's agent turned the envelope away"  # how a relay begins to tell of that
COORDINATOR = "coordinator"  # its name as a sender; no site may be called that

# What each field is in JSON: a bool is no number, and a whole number of seconds may lack its point.
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}

# How far the clocks of a coordinator and a site may be apart, in seconds.
CLOCK_TOLERANCE = 300.0


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the sender of an envelope signs.

    ``counter`` grows with every request of a run, and a reply repeats that of its request. ``sent`` and
    ``expires`` are in seconds since 1970, by the sender's clock. ``payload`` is SHA-256 as hex.
    """

    run: str
    round: int
    sender: str
    receiver: str
    counter: int
    sent: float
    expires: float
    payload: str

    @property
    def content(self) -> bytes:
        """Canonical JSON: keys in order, no spaces, UTF-8."""
        return canonical_json(asdict(self))

    def check_time(self, now: float) -> None:
        """Raises ProtocolError if the envelope comes from the future, or too late to be of use."""
        if self.sent > now + CLOCK_TOLERANCE:
            raise ProtocolError(
                f"the envelope was sent {self.sent - now:.0f} s in this clock's future: set both clocks"
            )
        if self.expires < now:
            raise ProtocolError(
                f"the envelope expired {now - self.expires:.0f} s ago by this clock: it came too late, or "
                "this clock is ahead"
            )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An envelope whose signature fits."""

    header: Header
    payload: bytes


def seal(
    identity: Identity,
    payload: bytes,
    *,
    run: str,
    round_number: int,
    sender: str,
    receiver: str,
    counter: int,
    sent: float,
    expires: float,
) -> bytes:
    """A payload in an envelope signed by ``identity``, serialized."""
    header = Header(
        run=run,
        round=round_number,
        sender=sender,
        receiver=receiver,
        counter=counter,
        sent=sent,
        expires=expires,
        payload=_digest(payload),
    ).content
    signature = identity.sign(ENVELOPE_PURPOSE, header)
    return bytes(pb.Envelope(header=header, payload=payload, signature=signature).SerializeToString())


def open_envelope(content: bytes, *, public_key: bytes, sender: str, receiver: str) -> Opened:
    """Open an envelope from ``sender``, whose key is pinned, to ``receiver``.

    The signature is checked before anything in it is looked at. Raises SignatureError if the sender did
    not sign it, ProtocolError if it is none, or is meant for someone else.
    """
    envelope = _parse(content)
    verify(public_key, ENVELOPE_PURPOSE, envelope.header, envelope.signature)
    header = _read_header(envelope.header)
    if (header.sender, header.receiver) != (sender, receiver):
        raise ProtocolError(
            f"expected an envelope from {sender} to {receiver}, got one from {header.sender} to "
            f"{header.receiver}"
        )
    if header.payload != _digest(envelope.payload):
        raise ProtocolError("the envelope's payload is not the one that was signed")
    return Opened(header=header, payload=envelope.payload)


def read_expiry(content: bytes) -> float:
    """When an envelope expires, for someone who holds no key and so only waits for others.

    Raises ProtocolError if it is no envelope.
    """
    return _read_header(_parse(content).header).expires


def _parse(content: bytes) -> pb.Envelope:
    try:
        return pb.Envelope.FromString(content)
    except DecodeError as error:
        raise ProtocolError(f"not an envelope: {error}") from error


def _read_header(content: bytes) -> Header:
    try:
        table: dict[str, Any] = json.loads(content)
        header = Header(**table)
        for name, kind in Header.__annotations__.items():
            if type(table[name]) not in _KINDS[kind]:
                raise ProtocolError(f"not an envelope: its {name} is {table[name]!r}")
        if not (math.isfinite(header.sent) and math.isfinite(header.expires)):
            raise ProtocolError("not an envelope: its times are no numbers")
        canonical = header.content
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"not an envelope: {error!r}") from error
    if canonical != content:
        raise ProtocolError("the envelope's header is not in its canonical form")
    return header


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
