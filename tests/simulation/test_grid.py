"""A message is a function call: answers are handed on some at a time, each after it was settled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flwr.app import Message, MessageType

from privacy.errors import ProtocolError, SiteError
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.flower import size_of, unwrap, wrap
from simulation import grid as grids
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost

SIZE = 1000


class Sites:
    """Nodes that answer with their number, and what happened in which order."""

    def __init__(self, count: int) -> None:
        self.events: list[str] = []
        self.grid = InProcessGrid(
            {node: self.handler(node) for node in range(1, count + 1)},
            settle=lambda: self.events.append("settled"),
        )

    def handler(self, node: int) -> Callable[[bytes], bytes]:
        def answer(content: bytes) -> bytes:
            assert content == b"asked"
            self.events.append(f"asked {node}")
            return bytes([node]) * SIZE

        return answer

    def ask(self) -> list[bytes]:
        messages = [Message(wrap(b"asked"), node, MessageType.TRAIN) for node in self.grid.get_node_ids()]
        found = []
        for answer in self.grid.send_and_receive(messages):
            found.append(unwrap(answer.content))
            self.events.append(f"read {found[-1][0]}")
        return found


def test_small_answers_are_settled_together() -> None:
    sites = Sites(4)
    assert sites.ask() == [bytes([node]) * SIZE for node in range(1, 5)]
    asked, read = [f"asked {node}" for node in range(1, 5)], [f"read {node}" for node in range(1, 5)]
    assert sites.events == [*asked, "settled", *read]


def test_big_answers_are_handed_on_after_every_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each after it was settled, and before the others are asked."""
    monkeypatch.setattr(grids, "_MOST_HELD", 2 * SIZE)
    sites = Sites(5)
    assert [answer[0] for answer in sites.ask()] == [1, 2, 3, 4, 5]
    assert sites.events == [
        *("asked 1", "asked 2", "settled", "read 1", "read 2"),
        *("asked 3", "asked 4", "settled", "read 3", "read 4"),
        *("asked 5", "settled", "read 5"),
    ]


@pytest.mark.parametrize("size", [0, 5, 2_000_000])
def test_a_record_has_the_size_of_what_is_in_it(size: int) -> None:
    assert size_of(wrap(bytes(size))) == size


JOIN = Request(join=pb.Join(manifest=b"m"))


def post(*, long: str = "") -> tuple[OpenPost, list[str]]:
    """Sites north and south, and who was asked."""
    asked: list[str] = []

    def handler(site: str) -> Callable[[bytes], bytes]:
        def answer(_content: bytes) -> bytes:
            asked.append(site)
            key = bytes(500 if site == long else 5)
            return Reply(site=site, joined=pb.Joined(public_key=key)).SerializeToString()

        return answer

    grid = InProcessGrid({1: handler("north"), 2: handler("south")})
    return OpenPost(grid, names={1: "north", 2: "south"}), asked


HOW = {"round_number": 1, "min_survivors": 2, "seconds": 60.0}


def test_answers_are_handed_over_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_MOST_HELD", 1)
    sites, asked = post()
    seen: list[list[str]] = []

    def take(site: str, reply: Reply) -> Reply:
        seen.append([site, *asked])
        return Reply(site=reply.site)

    found = sites.ask(dict.fromkeys(("north", "south"), JOIN), take=take, **HOW)
    assert seen == [["north", "north"], ["south", "north", "south"]]
    assert found.replies == {site: Reply(site=site) for site in ("north", "south")}


def test_who_is_turned_down_or_sends_too_much_has_refused() -> None:
    def take(site: str, reply: Reply) -> Reply:
        if site == "north":
            raise ProtocolError("its receipt is wrong")
        return reply

    sites, _ = post()
    found = sites.ask(dict.fromkeys(("north", "south"), JOIN), take=take, **HOW)
    assert list(found.replies) == ["south"]
    assert str(found.refused["north"]) == "its receipt is wrong"
    sites, _ = post(long="south")
    found = sites.ask(dict.fromkeys(("north", "south"), JOIN), longest=lambda _: 100, **HOW)
    assert list(found.replies) == ["north"]
    assert "south sent 51" in str(found.refused["south"])
    assert "bytes in answer to join: expected 100 at most" in str(found.refused["south"])


def test_a_site_that_answers_in_anothers_name_ends_the_run() -> None:
    grid = InProcessGrid({node: lambda _: Reply(site="north").SerializeToString() for node in (1, 2)})
    sites = OpenPost(grid, names={1: "north", 2: "south"})
    with pytest.raises(SiteError, match="two nodes call themselves north"):
        sites.ask({"south": JOIN}, **HOW)
