"""What came of an exchange: enough answers, or why not."""

from __future__ import annotations

import pytest

from privacy.errors import BudgetError, ProtocolError, RunError, SiteError
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from server.post.post import Exchange, check_answers, read_reply, refusal

JOINED = Reply(site="a", joined=pb.Joined())
TRAINED = Reply(site="b", trained=pb.Trained())
SPENT = BudgetError("c: spent")
REFUSED = SiteError("d refused: no")


def test_answers_of_one_kind_alone_count() -> None:
    exchange = Exchange(replies={"a": JOINED, "b": TRAINED})
    assert exchange.require(1, "trained", what="round 1") == {"b": TRAINED}
    with pytest.raises(RunError, match="at least 2 sites in time, got 1"):
        exchange.require(2, "trained", what="round 1")


def test_enough_answers_are_enough_whoever_refused() -> None:
    exchange = Exchange(replies={"a": JOINED}, refused={"c": SPENT}, silent={"e": "it is away"})
    assert exchange.require(1, "joined", what="joining") == {"a": JOINED}


def test_the_first_refusal_is_raised() -> None:
    exchange = Exchange(replies={"a": JOINED}, refused={"d": REFUSED, "c": SPENT})
    with pytest.raises(BudgetError, match="c: spent"):
        exchange.require(2, "joined", what="joining")


def test_a_spent_budget_is_raised_only_if_it_decides() -> None:
    refused = {"c": SPENT}
    with pytest.raises(RunError, match=r"got 1 \(e: it is away; c: spent\)"):
        Exchange(replies={"a": JOINED}, refused=refused, silent={"e": "it is away"}).require(
            2, "joined", what="joining"
        )
    with pytest.raises(BudgetError):
        Exchange(replies={"a": JOINED}, refused=refused, silent={"e": "it is away"}).require(
            3, "joined", what="joining"
        )
    with pytest.raises(SiteError, match="d refused"):
        Exchange(replies={}, refused=refused | {"d": REFUSED}, silent={"e": "", "f": ""}).require(
            2, "joined", what="joining"
        )


def test_nobody_else_takes_part() -> None:
    with pytest.raises(RunError, match=r"got 1 \(no other site takes part\)"):
        Exchange(replies={"a": JOINED}).require(2, "joined", what="joining")


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_no_reply(content: bytes) -> None:
    with pytest.raises(SiteError, match="cannot be parsed"):
        read_reply(content)


@pytest.mark.parametrize(("told", "taken"), [(0, 1), (1, 1), (2, 2), (3, 1), (256, 1), (2**32 - 1, 1)])
def test_a_site_does_not_choose_the_exit_code(told: int, taken: int) -> None:
    error = refusal(Reply(site="a", refused=pb.Refused(reason="no", exit_code=told)))
    assert isinstance(error, SiteError)
    assert error.exit_code == taken
    assert str(error) == "a refused: no"


def test_a_spent_budget_is_one() -> None:
    error = refusal(Reply(site="a", refused=pb.Refused(reason="spent", budget_spent=True, exit_code=2)))
    assert isinstance(error, BudgetError)
    assert refusal(JOINED) is None
    assert refusal(Reply(site="a")) is None


REQUESTS = {
    "joined": Request(join=pb.Join()),
    "trained": Request(train=pb.Train()),
    "evaluated": Request(evaluate=pb.Evaluate()),
}
REPLIES = {
    "joined": JOINED,
    "trained": TRAINED,
    "evaluated": Reply(site="c", evaluated=pb.Evaluated()),
    "refused": Reply(site="d", refused=pb.Refused()),
    "nothing": Reply(site="e"),
}


@pytest.mark.parametrize("asked", REQUESTS)
@pytest.mark.parametrize("kind", REPLIES)
def test_an_answer_is_of_the_kind_that_was_asked_for(asked: str, kind: str) -> None:
    request = str(REQUESTS[asked].WhichOneof("kind"))
    if asked == kind:
        check_answers(request, REPLIES[kind])
        return
    with pytest.raises(ProtocolError, match=f"with {kind}"):
        check_answers(request, REPLIES[kind])
