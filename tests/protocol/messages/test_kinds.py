"""The table of kinds and the proto say the same."""

from __future__ import annotations

import pytest

from privacy.errors import ProtocolError
from protocol.messages import confide_pb2 as pb
from protocol.messages.message_kinds import KINDS, MOST_BINS_OF_ALL, MessageKind, kind_of, longest_answer


def fields(message: type[pb.Request] | type[pb.Reply]) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.oneofs_by_name["kind"].fields]


def request(kind: str) -> pb.Request:
    asked = pb.Request()
    getattr(asked, kind).SetInParent()
    return asked


def test_each_field_of_the_proto_has_its_row() -> None:
    assert [kind.request for kind in KINDS] == fields(pb.Request)
    assert sorted([kind.reply for kind in KINDS] + ["refused"]) == sorted(fields(pb.Reply))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.request)
def test_a_request_is_known_by_its_field_and_names_its_run(kind: MessageKind) -> None:
    asked = request(kind.request)
    assert kind_of(asked) is kind
    # Joining brings the manifest itself.
    named = "manifest" if kind.request == "join" else "manifest_digest"
    assert named in getattr(asked, kind.request).DESCRIPTOR.fields_by_name


def test_a_request_without_a_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not know"):
        kind_of(pb.Request(head=b"x"))


def test_room_is_made_for_what_each_kind_may_answer() -> None:
    plain = pb.Request(train=pb.Train(adapter=bytes(4000))).SerializeToString()
    assert longest_answer(plain) == len(plain)
    encrypted = pb.Request(train=pb.Train(adapter=bytes(4000), roster=pb.Roster(number=1)))
    assert longest_answer(encrypted.SerializeToString()) > 4 * len(
        plain
    )  # ciphertexts are longer than numbers
    assert longest_answer(request("deal").SerializeToString()) > 1000
    assert longest_answer(pb.Request(head=b"x").SerializeToString()) == 0
    assert longest_answer(pb.Request(count=pb.Count(bins=1000)).SerializeToString()) == 8000
    # No coordinator has a site set gigabytes aside.
    most = pb.Request(count=pb.Count(bins=2**32 - 1)).SerializeToString()
    assert longest_answer(most) == 8 * MOST_BINS_OF_ALL
