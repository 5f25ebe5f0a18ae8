"""Envelopes: whatever was not signed as it stands is refused, and with an error of ours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError, SignatureError
from privacy.identity import Identity
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import (
    CLOCK_TOLERANCE,
    COORDINATOR,
    ENVELOPE_PURPOSE,
    Header,
    Opened,
    open_envelope,
    read_expiry,
    seal,
)

# The private key of RFC 8032, section 7.1, test 1.
KEY = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(KEY))
FIELDS: dict[str, Any] = {
    "run": "tweets-1",
    "round_number": 2,
    "sender": COORDINATOR,
    "receiver": "nörth",
    "counter": 7,
    "sent": 1000.5,
    "expires": 4600.5,
}
VECTOR_HEADER = (
    '{"counter":7,"expires":4600.5,"payload":"239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a9'
    '35e5","receiver":"nörth","round":2,"run":"tweets-1","sender":"coordinator","sent":1000.5}'
).encode()
VECTOR_SIGNATURE = bytes.fromhex(
    "e63784f259582b89bb30b72366d17383021a3ca41ec0cdc9370325098439f20d"
    "8267ec59807cf8288432ef4278571a331c54d23812d92839f7fbb2583521b803"
)
CONTENT = seal(IDENTITY, b"payload", **FIELDS)


def opened(content: bytes, **changes: Any) -> Opened:
    known = {"public_key": IDENTITY.public, "sender": COORDINATOR, "receiver": "nörth"}
    return open_envelope(content, **(known | changes))


def resigned(header: bytes, payload: bytes = b"payload") -> bytes:
    """What the pinned key does sign, whatever the header is."""
    signature = IDENTITY.sign(ENVELOPE_PURPOSE, header)
    return pb.Envelope(header=header, payload=payload, signature=signature).SerializeToString()


def table() -> dict[str, Any]:
    return json.loads(VECTOR_HEADER)


def test_the_vector_is_sealed() -> None:
    envelope = pb.Envelope.FromString(CONTENT)
    assert envelope.header == VECTOR_HEADER
    assert envelope.signature == VECTOR_SIGNATURE
    assert envelope.payload == b"payload"


def test_the_vector_is_opened() -> None:
    content = pb.Envelope(header=VECTOR_HEADER, payload=b"payload", signature=VECTOR_SIGNATURE)
    found = opened(content.SerializeToString())
    assert found.payload == b"payload"
    assert (found.header.run, found.header.round, found.header.counter) == ("tweets-1", 2, 7)
    assert (found.header.sent, found.header.expires) == (1000.5, 4600.5)
    assert read_expiry(content.SerializeToString()) == 4600.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "tweets-2"),
        ("round", 3),
        ("sender", "north"),
        ("receiver", "south"),
        ("counter", 8),
        ("sent", 1000.25),
        ("expires", 4600.75),
        ("payload", "0" * 64),
    ],
)
def test_every_field_is_signed(name: str, value: object) -> None:
    assert name in table()
    header = canonical_json(table() | {name: value})
    envelope = pb.Envelope(header=header, payload=b"payload", signature=VECTOR_SIGNATURE)
    with pytest.raises(SignatureError):
        opened(envelope.SerializeToString())


def test_all_fields_are_covered_above() -> None:
    assert set(table()) == set(Header.__annotations__)


def test_another_payload() -> None:
    for payload in (b"", b"payloae", b"payload\0"):
        with pytest.raises(ProtocolError, match="payload is not the one that was signed"):
            opened(resigned(VECTOR_HEADER, payload))


def test_another_key() -> None:
    other = Identity.generate()
    with pytest.raises(SignatureError):
        opened(seal(other, b"payload", **FIELDS))
    with pytest.raises(SignatureError):
        opened(CONTENT, public_key=other.public)
    for key in (b"", b"short", bytes(33)):
        with pytest.raises(SignatureError):
            opened(CONTENT, public_key=key)


@pytest.mark.parametrize("purpose", ["manifest", "receipt", "", "envelope\0", "confide envelope"])
def test_a_signature_for_something_else(purpose: str) -> None:
    signature = IDENTITY.sign(purpose, VECTOR_HEADER)
    envelope = pb.Envelope(header=VECTOR_HEADER, payload=b"payload", signature=signature)
    with pytest.raises(SignatureError):
        opened(envelope.SerializeToString())


@pytest.mark.parametrize("length", [0, 1, 63, 65])
def test_a_signature_of_another_length(length: int) -> None:
    signature = (VECTOR_SIGNATURE + b"\0")[:length]
    envelope = pb.Envelope(header=VECTOR_HEADER, payload=b"payload", signature=signature)
    with pytest.raises(SignatureError):
        opened(envelope.SerializeToString())


def test_another_sender_or_receiver() -> None:
    for changes in ({"sender": "north"}, {"receiver": "south"}, {"receiver": COORDINATOR}):
        with pytest.raises(ProtocolError, match="expected an envelope from"):
            opened(CONTENT, **changes)


def test_an_envelope_sent_back_to_its_sender() -> None:
    with pytest.raises(ProtocolError, match="expected an envelope from"):
        opened(CONTENT, sender="nörth", receiver=COORDINATOR)


def spaced(table: dict[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, ensure_ascii=False).encode()


HEADERS: dict[str, Callable[[], bytes]] = {
    "spaces": lambda: spaced(table()),
    "keys in another order": lambda: json.dumps(
        dict(reversed(table().items())), separators=(",", ":"), ensure_ascii=False
    ).encode(),
    "escapes": lambda: json.dumps(table(), sort_keys=True, separators=(",", ":")).encode(),
    "a key twice": lambda: VECTOR_HEADER.replace(b'"round":2', b'"round":1,"round":2'),
    "an exponent": lambda: VECTOR_HEADER.replace(b"1000.5", b"1.0005e3"),
    "utf-16": lambda: VECTOR_HEADER.decode().encode("utf-16"),
    "a byte order mark": lambda: b"\xef\xbb\xbf" + VECTOR_HEADER,
    "a line break": lambda: VECTOR_HEADER + b"\n",
    "trailing data": lambda: VECTOR_HEADER + b"{}",
    "cut off": lambda: VECTOR_HEADER[:-1],
    "not text": lambda: b"\xff" + VECTOR_HEADER,
    "a lone surrogate": lambda: VECTOR_HEADER.replace(b"tweets-1", b"\\ud800"),
    "empty": lambda: b"",
    "null": lambda: b"null",
    "a list": lambda: b"[]",
    "a text": lambda: b'"run"',
    "nothing in it": lambda: b"{}",
    "deep": lambda: b"[" * 100_000,
    "a deep field": lambda: VECTOR_HEADER.replace(b'"tweets-1"', b"[" * 500 + b"]" * 500),
    "a field more": lambda: canonical_json(table() | {"more": 1}),
    "a field of Python's": lambda: canonical_json(table() | {"self": 1}),
    **{
        f"no {name}": lambda name=name: canonical_json({k: v for k, v in table().items() if k != name})
        for name in table()
    },
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_signed_header_of_another_form(header: Callable[[], bytes]) -> None:
    content = resigned(header())
    with pytest.raises(ProtocolError):
        opened(content)
    with pytest.raises(ProtocolError):
        read_expiry(content)


HUGE = 10**400  # more than a float holds, fewer digits than Python refuses to read
WRONG: dict[str, list[Any]] = {
    "run": [1, None, True, ["tweets-1"], {}],
    "round": ["2", 2.0, True, None, [2]],
    "sender": [0, None, ["coordinator"]],
    "receiver": [0, None, {"nörth": 1}],
    "counter": [7.0, "7", False, None],
    "sent": [True, "1000.5", None, float("nan"), float("inf"), -float("inf"), HUGE, -HUGE],
    "expires": [False, "4600.5", None, float("nan"), float("inf"), HUGE, []],
    "payload": [None, 1, ["0" * 64], b"0".decode()],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_signed_field_of_another_kind(name: str, value: object) -> None:
    content = resigned(canonical_json(table() | {name: value}))
    with pytest.raises(ProtocolError):
        opened(content)
    if name != "payload" or not isinstance(value, str):
        with pytest.raises(ProtocolError):
            read_expiry(content)


def test_an_integer_too_long_to_read() -> None:
    header = VECTOR_HEADER.replace(b'"counter":7', b'"counter":' + b"7" * 5000)
    with pytest.raises(ProtocolError, match="not an envelope"):
        opened(resigned(header))


def test_what_was_cut_off() -> None:
    for length in range(len(CONTENT)):
        with pytest.raises(ProtocolError):
            opened(CONTENT[:length])


def test_what_protobuf_does_not_know_changes_nothing() -> None:
    """Field 15, and a first payload: protobuf takes the last, whose digest is signed."""
    more = CONTENT + b"\x7a\x03abc"
    first = pb.Envelope(payload=b"other").SerializeToString() + CONTENT
    assert opened(more) == opened(first) == opened(CONTENT)
    with pytest.raises(ProtocolError, match="payload is not the one"):
        opened(CONTENT + pb.Envelope(payload=b"other").SerializeToString())


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"{}", pb.Reply(site="nörth").SerializeToString()])
def test_no_envelope(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        opened(content)
    with pytest.raises(ProtocolError):
        read_expiry(content)


def test_expiry_needs_no_key() -> None:
    other = seal(Identity.generate(), b"", **FIELDS | {"expires": 3})
    assert read_expiry(other) == 3


def header(**changes: float) -> Header:
    return Header(**table() | changes)


def test_its_time() -> None:
    header().check_time(1000.5 - CLOCK_TOLERANCE)
    header().check_time(4600.5)
    with pytest.raises(ProtocolError, match="sent 301 s in this clock's future"):
        header().check_time(1000.5 - CLOCK_TOLERANCE - 1)
    with pytest.raises(ProtocolError, match="expired 2 s ago"):
        header().check_time(4602.5)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TIMES = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12)


@settings(max_examples=200, deadline=None)
@given(
    payload=st.binary(max_size=200),
    run=NAMES,
    number=st.integers(0, 2**40),
    sender=NAMES,
    receiver=NAMES,
    counter=st.integers(-5, 2**70),
    sent=TIMES,
    expires=TIMES,
)
def test_what_is_sealed_opens(
    payload: bytes,
    run: str,
    number: int,
    sender: str,
    receiver: str,
    counter: int,
    sent: float,
    expires: float,
) -> None:
    content = seal(
        IDENTITY,
        payload,
        run=run,
        round_number=number,
        sender=sender,
        receiver=receiver,
        counter=counter,
        sent=sent,
        expires=expires,
    )
    found = opened(content, sender=sender, receiver=receiver)
    assert found.payload == payload
    told = found.header
    assert (told.run, told.round, told.sender, told.receiver) == (run, number, sender, receiver)
    assert (told.counter, told.sent, told.expires) == (counter, sent, expires)
    assert read_expiry(content) == expires


def mutate(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed) + 1)
        kind = draw.randrange(4)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place : place + draw.randint(1, 20)]
        elif kind == 2:
            changed[place:place] = draw.randbytes(draw.randint(1, 8))
        else:
            start = draw.randrange(len(content))
            changed[place:place] = content[start : start + draw.randint(1, 30)]
    return bytes(changed)


def test_fuzzed_envelopes_raise_our_errors_alone() -> None:
    draw, honest = random.Random(5), opened(CONTENT)  # noqa: S311
    for _ in range(5_000):
        content = mutate(draw, CONTENT)
        with suppress(ProtocolError):
            assert opened(content) == honest
        with suppress(ProtocolError):
            assert isinstance(read_expiry(content), int | float)


def test_fuzzed_headers_raise_our_errors_alone() -> None:
    """Signed, so that it is the header's reader that is tried."""
    draw = random.Random(6)  # noqa: S311
    for _ in range(5_000):
        header = mutate(draw, VECTOR_HEADER)
        with suppress(ProtocolError):
            found = opened(resigned(header), sender=COORDINATOR, receiver="nörth")
            assert found.header.content == header
