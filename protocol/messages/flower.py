"""A message's way through Flower: opaque bytes in one array that no stock strategy can average."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, RecordDict

from privacy.errors import ProtocolError

_KEY = "confide"
_STYPE = "confide.message"


def wrap(content: bytes) -> RecordDict:
    """Bytes as a Flower record."""
    array = Array(dtype="uint8", shape=(len(content),), stype=_STYPE, data=content)
    return RecordDict({_KEY: ArrayRecord({_KEY: array})})


def unwrap(record: RecordDict) -> bytes:
    """The bytes of a Flower record. Raises ProtocolError if it carries anything else."""
    inner = record.array_records.get(_KEY)
    array = inner.get(_KEY) if inner is not None else None
    if array is None or array.stype != _STYPE:
        raise ProtocolError("expected a Confide message in the Flower record, got something else")
    return bytes(array.data)
