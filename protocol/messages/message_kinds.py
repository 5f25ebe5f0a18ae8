"""The kinds of messages, one row each: what a coordinator asks, and what a site answers.

A new kind is a field in each of the proto's two ``oneof kind``, a row here, and whoever answers it at a
site. Post, mailbox, agent and metrics read the row. A refusal may answer any of them, and has no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from privacy.errors import ProtocolError
from privacy.secagg.ckks.homomorphic import longest_content
from privacy.secagg.ckks.shared_key import KEY_MAX
from protocol.messages import confide_pb2 as pb

_WORD = 8  # bytes of a count
MOST_BINS_OF_ALL = 1 << 22  # more than the sections of any job's statistics allow


def _as_long_as_asked(_message: Any, size: int) -> int:
    """No more is answered than was asked with: an update is no longer than the adapter."""
    return size


def _key_beside(_message: pb.Deal, size: int) -> int:
    """What is dealt may be the key of homomorphic sums."""
    return size + KEY_MAX


def _trained(message: pb.Train, size: int) -> int:
    """In homomorphic sums an update is ciphertexts, of as many numbers as the adapter at most."""
    return longest_content(max(1, len(message.adapter) // 4)) if message.HasField("roster") else size


def _counts(message: pb.Count, _size: int) -> int:
    """A word a bin, of as many bins as statistics can have."""
    return _WORD * min(message.bins, MOST_BINS_OF_ALL)


@dataclass(frozen=True, kw_only=True)
class MessageKind:
    """One kind: the field of ``Request`` that asks, and the field of ``Reply`` that answers.

    ``of_sum`` says that it is a step of sums that hide updates, which a site's session of them answers.
    ``longest(message, size)`` is how many bytes an answer has at most, but for a receipt and a few names,
    by what the request's field holds and by the size of the whole request.
    """

    request: str
    reply: str
    of_sum: bool = False
    longest: Callable[[Any, int], int] = _as_long_as_asked


KINDS = (
    MessageKind(request="join", reply="joined"),
    MessageKind(request="train", reply="trained", longest=_trained),
    MessageKind(request="evaluate", reply="evaluated"),
    MessageKind(request="deal", reply="dealing", of_sum=True, longest=_key_beside),
    MessageKind(request="confirm", reply="confirmed", of_sum=True),
    MessageKind(request="unmask", reply="unmasked", of_sum=True),
    MessageKind(request="open", reply="opened", of_sum=True),
    MessageKind(request="count", reply="counted", longest=_counts),
)
BY_REQUEST = {kind.request: kind for kind in KINDS}


def kind_of(request: pb.Request) -> MessageKind:
    """The kind of a request. Raises ProtocolError for one that this version does not know."""
    kind = BY_REQUEST.get(str(request.WhichOneof("kind")))
    if kind is None:
        raise ProtocolError("the request is of a kind that this version does not know")
    return kind


def longest_answer(payload: bytes) -> int:
    """How many bytes the answer to a serialized request has at most, but for a receipt and a few names."""
    try:
        request = pb.Request.FromString(payload)
        kind = kind_of(request)
    except (DecodeError, ProtocolError):
        return 0  # it is refused
    return kind.longest(getattr(request, kind.request), len(payload))
