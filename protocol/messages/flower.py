"""A message's way through Flower: opaque bytes in one record that no stock strategy can average."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privacy.errors import ProtocolError

_KEY = "confide"
_STYPE = "confide.message"
# Flower sends arrays in pieces, and each part of a message in a request of its own: an array costs two
# requests more to send and four more to fetch. What is much longer does not fit through a proxy in one.
_ONE_PIECE = 1 << 20  # bytes


def wrap(content: bytes) -> RecordDict:
    """Bytes as a Flower record: a short content as one value, a long one as an array."""
    if len(content) <= _ONE_PIECE:
        return RecordDict({_KEY: ConfigRecord({_KEY: content})})
    array = Array(dtype="uint8", shape=(len(content),), stype=_STYPE, data=content)
    return RecordDict({_KEY: ArrayRecord({_KEY: array})})


def unwrap(record: RecordDict) -> bytes:
    """The bytes of a Flower record. Raises ProtocolError if it carries anything else."""
    return bytes(_content(record))


def size_of(record: RecordDict) -> int:
    """How many bytes ``unwrap`` gives. Raises as it does."""
    return len(_content(record))


def _content(record: RecordDict) -> bytes:
    found = next(iter(record.values())) if len(record) == 1 else None
    inner = found.get(_KEY) if isinstance(found, ConfigRecord | ArrayRecord) else None
    if isinstance(inner, Array) and inner.stype == _STYPE:
        inner = inner.data
    if isinstance(inner, bytes):
        return inner
    raise ProtocolError("expected a Confide message in the Flower record, got something else")
