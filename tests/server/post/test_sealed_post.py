"""The post of a federation, over a Grid and a clock that are scripted: nothing waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict

from privacy.errors import BudgetError, ProtocolError, RunError, SiteError
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.envelope import TURNED_AWAY
from protocol.messages.flower import wrap
from runs.run_folder import RunFolder
from server.post.post import Exchange
from server.post.prompt_grid import TOO_LONG
from server.sums.requests import Requests
from tests import children
from tests.server.mail import Mail, identity, joined, node_pem, opened, reply_to, sealed

JOIN = Request(join=pb.Join(manifest=b"m"))
TRAIN = Request(train=pb.Train(round=1))
FAILED = Error(code=1, reason="no agent")


@pytest.fixture
def mail() -> Mail:
    mail = Mail()
    mail.connect("north", "south")
    return mail


def ask(mail: Mail, *sites: str, min_survivors: int = 2, seconds: float = 60.0, **more: Any) -> Exchange:
    sites = sites or ("north", "south")
    post = more.pop("post", None) or mail.post("north", "south")
    values = {"round_number": 3} | more
    return post.ask(dict.fromkeys(sites, JOIN), min_survivors=min_survivors, seconds=seconds, **values)


def test_an_exchange(mail: Mail) -> None:
    found = ask(mail)
    assert list(found.replies) == ["north", "south"]
    assert all(reply == joined(site) for site, reply in found.replies.items())
    assert (found.refused, found.silent) == ({}, {})
    for sent in mail.sent:
        header = opened(sent.site, sent.content).header
        assert (header.run, header.round, header.counter) == ("tweets-1", 3, 1)
        assert (header.sent, header.expires) == (1e9, 1e9 + 60)
        assert opened(sent.site, sent.content).payload == JOIN.SerializeToString()
        assert sent.ttl == 90
    assert found.bytes_down == sum(len(sent.content) for sent in mail.sent)
    answers = [sealed(site, mail.contents(site)[0]) for site in ("north", "south")]
    assert found.bytes_up == sum(map(len, answers))
    assert mail.ticking.time == 0


def test_each_exchange_has_a_counter_of_its_own(mail: Mail) -> None:
    post = mail.post("north", "south")
    for _ in range(3):
        ask(mail, post=post)
    assert [opened("north", content).header.counter for content in mail.contents("north")] == [1, 2, 3]


def test_failures_are_tried_again_after_growing_pauses(mail: Mail) -> None:
    mail.does["south"] = lambda _: FAILED
    found = ask(mail, seconds=3600.0)
    times = mail.times("south")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([1, 2, 4, 8, *[15] * 35], abs=0.21)
    assert len(set(mail.contents("south"))) == 1
    # Then it is not waited for: the deadline is far.
    assert mail.ticking.time < 600
    assert list(found.replies) == ["north"]
    assert found.silent == {"south": "its relay failed: no agent"}
    assert found.bytes_down == len(mail.contents("north")[0]) + 40 * len(mail.contents("south")[0])


def test_an_agent_that_turns_a_request_away_is_not_asked_for_long(mail: Mail) -> None:
    """Its clock is wrong, say: the round need not wait for its deadline to tell."""
    why = f"<class 'privacy.errors.ProtocolError'>:<{TURNED_AWAY}: it expired>"
    mail.does["south"] = lambda _: Error(code=1, reason=why)
    found = ask(mail, seconds=3600.0)
    assert len(mail.times("south")) == 3
    assert mail.ticking.time < 10
    assert "it expired" in found.silent["south"]


def test_a_failure_that_passes(mail: Mail) -> None:
    tries: list[bytes] = []

    def answer(content: bytes) -> bytes | Error:
        tries.append(content)
        return FAILED if len(tries) < 3 else sealed("south", content)

    mail.does["south"] = answer
    assert list(ask(mail).replies) == ["north", "south"]
    assert tries[0] == tries[1] == tries[2]


def test_a_failure_without_a_reason(mail: Mail) -> None:
    mail.does["south"] = lambda _: Error(code=2)
    assert ask(mail, seconds=5.0).silent == {"south": "its relay failed: no reason given"}


def restart(mail: Mail, site: str) -> None:
    mail.nodes[site].last_activated_at = "second"
    mail.does[site] = lambda content: sealed(site, content)


def test_a_node_that_was_started_anew_gets_its_request_again(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    mail.ticking.at(10.0, lambda: restart(mail, "south"))
    found = ask(mail)
    assert list(found.replies) == ["north", "south"]
    first, second = mail.contents("south")
    assert first == second
    assert 10 <= mail.times("south")[1] < 12.5
    assert len(mail.sent) == 3
    # What is left of the time, and no longer.
    assert mail.sent[-1].ttl == pytest.approx(90 - mail.sent[-1].time)


def test_a_node_that_goes_on_is_asked_once(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    ask(mail, seconds=30.0)
    assert mail.times("south") == [0]


def test_a_node_that_left_and_came_back(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    away: list[Any] = []
    mail.ticking.at(5.0, lambda: away.append(mail.nodes.pop("south")))

    def back() -> None:
        mail.nodes["south"] = away[0]
        restart(mail, "south")

    mail.ticking.at(20.0, back)
    assert list(ask(mail).replies) == ["north", "south"]
    assert len(mail.times("south")) == 2


def test_a_node_that_connects_late(mail: Mail) -> None:
    south = mail.nodes.pop("south")
    mail.ticking.at(20.0, lambda: mail.nodes.update(south=south))
    assert list(ask(mail).replies) == ["north", "south"]
    assert 20 <= mail.times("south")[0] < 22.5


@pytest.mark.parametrize("pem", [b"", b"not a key", node_pem("stranger"), node_pem("revoked")])
def test_a_node_that_is_not_of_the_federation(mail: Mail, pem: bytes) -> None:
    """A revoked site is no member any more, whatever it is connected with."""
    mail.connect("stranger")
    mail.nodes["stranger"].public_key = pem
    post = mail.post("north", "south")
    assert post.sites() == ("north", "south")
    assert list(ask(mail, post=post).replies) == ["north", "south"]
    assert mail.times("stranger") == []


def test_sites_are_known_by_their_keys_alone(mail: Mail) -> None:
    north, south = mail.nodes["north"], mail.nodes["south"]
    north.node_id, south.node_id = 77, 66
    ask(mail)
    for site, node in (("north", north), ("south", south)):
        assert node.public_key == node_pem(site)
        assert opened(site, mail.contents(site)[0]).header.receiver == site


def other_record(_: bytes) -> RecordDict:
    return RecordDict({"confide": ConfigRecord({"another": b"x"})})


def other_array(content: bytes) -> RecordDict:
    data = sealed("south", content)
    array = Array(dtype="uint8", shape=(len(data),), stype="numpy.ndarray", data=data)
    return RecordDict({"confide": ArrayRecord({"confide": array})})


def unsigned(content: bytes) -> bytes:
    envelope = pb.Envelope.FromString(sealed("south", content))
    envelope.signature = b""
    return envelope.SerializeToString()


def overflowing(content: bytes) -> bytes:
    return sealed("south", content, sent=10**400)


WRONG: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "another site's key": (
        lambda content: sealed("south", content, signer=identity("north")),
        "the signature does not fit",
    ),
    "another site's answer": (
        lambda content: sealed("south", content, sender="north", signer=identity("north")),
        "the signature does not fit",
    ),
    "in another site's name": (
        lambda content: sealed("south", content, sender="north"),
        "expected an envelope from south to coordinator, got one from north",
    ),
    "to someone else": (lambda content: sealed("south", content, receiver="north"), "expected an envelope"),
    "its own request": (lambda content: content, "the signature does not fit"),
    "another counter": (lambda content: sealed("south", content, counter=0), "it answered request 0 of"),
    "a later counter": (lambda content: sealed("south", content, counter=2), "it answered request 2 of"),
    "another round": (lambda content: sealed("south", content, round_number=2), "of round 2 of run"),
    "another run": (lambda content: sealed("south", content, run="tweets-2"), "of run tweets-2 instead"),
    "another time": (lambda content: sealed("south", content, expires=5.0), "made another time"),
    "unsigned": (unsigned, "the signature does not fit"),
    "the reply alone": (
        lambda _: joined("south").SerializeToString(),
        "",
    ),
    "garbage": (lambda _: b"\xff\xfe garbage", "not an envelope"),
    "empty": (lambda _: b"", "the signature does not fit"),
    "a time past all floats": (overflowing, "not an envelope"),
    "no reply in it": (lambda content: sealed("south", content, b"\xff"), "cannot be parsed"),
    "nothing in the reply": (lambda content: sealed("south", content, Reply(site="south")), "with nothing"),
    "another kind": (
        lambda content: sealed("south", content, Reply(site="south", trained=pb.Trained())),
        "south answered join with trained",
    ),
    "another name": (
        lambda content: sealed("south", content, joined("north")),
        "it calls itself north",
    ),
    "a refusal under another name": (
        lambda content: sealed("south", content, Reply(site="north", refused=pb.Refused(reason="no"))),
        "it calls itself north",
    ),
    "another record": (other_record, "expected a Confide message"),
    "another array": (other_array, "expected a Confide message"),
    "no record": (lambda _: RecordDict(), "expected a Confide message"),
}


@pytest.mark.parametrize(("does", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_answer(mail: Mail, does: Callable[[bytes], Any], why: str) -> None:
    mail.does["south"] = does
    found = ask(mail, seconds=5.0)
    assert list(found.replies) == ["north"]
    assert found.refused == {}
    assert why in found.silent["south"]
    assert len(mail.times("south")) == 3  # it was given more chances
    answers = [does(content) for content in mail.contents("south")]
    answers = [answer for answer in answers if isinstance(answer, bytes)]
    if answers:
        answers.append(sealed("north", mail.contents("north")[0]))
        assert found.bytes_up == sum(map(len, answers))


def test_a_wrong_answer_and_then_the_right_one(mail: Mail) -> None:
    mail.does["south"] = lambda _: b"garbage"
    mail.ticking.at(0.5, lambda: restart(mail, "south"))
    assert list(ask(mail).replies) == ["north", "south"]


def test_the_answer_of_the_exchange_before(mail: Mail) -> None:
    post, kept = mail.post("north", "south"), []
    mail.does["south"] = lambda content: kept.append(sealed("south", content)) or kept[0]
    assert "south" in ask(mail, post=post).replies
    assert "request 1 of round 3" in ask(mail, post=post, seconds=5.0).silent["south"]


def refuses(reason: str, **fields: Any) -> Callable[[bytes], bytes]:
    reply = Reply(site="south", refused=pb.Refused(reason=reason, **fields))
    return lambda content: sealed("south", content, reply)


def test_a_refusal_is_final(mail: Mail) -> None:
    mail.does["south"] = refuses("not with us", exit_code=2)
    found = ask(mail)
    assert list(found.replies) == ["north"]
    assert isinstance(found.refused["south"], SiteError)
    assert str(found.refused["south"]) == "south refused: not with us"
    assert found.silent == {}
    assert mail.times("south") == [0]
    assert mail.ticking.time == 0


def test_a_spent_budget(mail: Mail) -> None:
    mail.does["south"] = refuses("spent", budget_spent=True)
    assert isinstance(ask(mail).refused["south"], BudgetError)


def test_a_slow_site_at_the_deadline(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    found = ask(mail, min_survivors=1, seconds=30.0)
    assert list(found.replies) == ["north"]
    assert found.silent == {"south": "it is connected and has not answered"}
    assert mail.ticking.time == pytest.approx(30, abs=0.2)


def test_the_last_look_is_at_the_deadline(mail: Mail) -> None:
    """An answer that came while it paused for the last time counts."""
    mail.does["south"] = lambda _: None

    def late() -> None:
        message = mail.grid.waiting.setdefault("m1", [])
        message.extend(answers)

    answers: list[Any] = []
    push = mail.grid.push_messages

    def keep(messages: Any) -> Any:
        messages = list(messages)
        identifiers = push(messages)
        for message, sent in zip(messages, mail.sent[-len(messages) :], strict=True):
            if sent.site == "south":
                answers.append(reply_to(message, sealed("south", sent.content)))
        return identifiers

    mail.grid.push_messages = keep
    mail.ticking.at(29.95, late)
    assert list(ask(mail, seconds=30.0).replies) == ["north", "south"]


def test_a_site_that_is_away_is_not_waited_for_once_there_are_enough(mail: Mail) -> None:
    del mail.nodes["south"]
    found = ask(mail, min_survivors=1, seconds=3600.0)
    assert found.silent == {"south": "it is not connected"}
    assert mail.ticking.time == 0


def test_a_site_that_leaves_is_not_waited_for_once_there_are_enough(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    mail.ticking.at(10.0, lambda: mail.nodes.pop("south"))
    found = ask(mail, min_survivors=1, seconds=3600.0)
    assert list(found.silent) == ["south"]
    assert 10 <= mail.ticking.time < 12.5


def test_a_site_that_is_away_is_waited_for_while_there_are_too_few(mail: Mail) -> None:
    del mail.nodes["south"]
    found = ask(mail, min_survivors=2, seconds=30.0)
    assert found.silent == {"south": "it is not connected"}
    assert mail.ticking.time == pytest.approx(30, abs=0.2)


def test_a_refusal_is_not_one_of_enough(mail: Mail) -> None:
    mail.connect("west")
    mail.does["south"] = refuses("no")
    del mail.nodes["west"]
    post = mail.post("north", "south", "west")
    ask(mail, "north", "south", "west", post=post, min_survivors=2, seconds=30.0)
    assert mail.ticking.time == pytest.approx(30, abs=0.2)


def test_requests_aside_are_answered_meanwhile(mail: Mail) -> None:
    mail.does["north"] = lambda content: sealed(
        "north", content, Reply(site="north", trained=pb.Trained(round=1))
    )
    post = mail.post("north", "south")
    found = post.ask(
        {"north": TRAIN}, round_number=1, min_survivors=1, seconds=60.0, side_requests={"south": JOIN}
    )
    assert [reply.WhichOneof("kind") for reply in found.replies.values()] == ["trained", "joined"]
    assert opened("south", mail.contents("south")[0]).payload == JOIN.SerializeToString()


@pytest.mark.parametrize("does", [lambda _: None, lambda _: FAILED])
def test_requests_aside_are_not_waited_for(mail: Mail, does: Callable[[bytes], Any]) -> None:
    mail.does["south"] = does
    found = ask(mail, "north", min_survivors=1, side_requests={"south": JOIN})
    assert list(found.replies) == ["north"]
    assert found.silent == {}
    assert mail.ticking.time == 0


def test_an_answer_aside_is_not_one_of_enough(mail: Mail) -> None:
    mail.connect("west")
    del mail.nodes["west"]
    post = mail.post("north", "south", "west")
    ask(mail, "north", "west", post=post, min_survivors=2, seconds=30.0, side_requests={"south": JOIN})
    assert mail.ticking.time == pytest.approx(30, abs=0.2)


def test_a_refusal_aside_is_told(mail: Mail) -> None:
    mail.does["south"] = refuses("no")
    assert list(ask(mail, "north", min_survivors=1, side_requests={"south": JOIN}).refused) == ["south"]


@pytest.mark.parametrize("given", [None, ""])
def test_a_message_that_flower_does_not_take(mail: Mail, given: str | None) -> None:
    mail.grid.drops["north"] = given
    found = ask(mail)
    assert list(found.replies) == ["north", "south"]
    assert mail.times("south") == [0]
    assert mail.times("north") == pytest.approx([1.0], abs=0.11)
    assert found.bytes_down == len(mail.contents("north")[0]) + len(mail.contents("south")[0])


@pytest.mark.parametrize("given", [[], [None], ["", ""]])
def test_messages_of_which_flower_takes_none(mail: Mail, given: list[Any]) -> None:
    mail.grid.refuses = [given]
    found = ask(mail)
    assert list(found.replies) == ["north", "south"]
    assert mail.times("north") == mail.times("south") == pytest.approx([1.0], abs=0.11)


def test_all_sites_are_asked_at_once_and_a_great_deal_in_parts(mail: Mail, monkeypatch: Any) -> None:
    """Between parts answers are taken, so that nobody's waits until the last request is out."""
    pushes: list[int] = []
    push = mail.grid.push_messages

    def count(messages: Any) -> Any:
        pushes.append(len(list(messages)))
        return push(messages)

    mail.grid.push_messages = count
    assert list(ask(mail).replies) == ["north", "south"]
    assert pushes == [2]
    monkeypatch.setattr("server.post.sealed_post._MOST_BYTES", 10)
    assert list(ask(mail).replies) == ["north", "south"]
    assert pushes == [2, 1, 1]


def test_messages_that_flower_never_takes(mail: Mail) -> None:
    mail.grid.refuses = [[None]] * 80
    found = ask(mail, seconds=3600.0)
    assert found.silent == dict.fromkeys(("north", "south"), "Flower did not take the message")
    assert found.bytes_down == 0


def twice(mail: Mail, second: Callable[[bytes], Any], **how: Any) -> Exchange:
    """South's node answers its one message twice."""
    push = mail.grid.push_messages

    def push_all(messages: Any) -> Any:
        messages = list(messages)
        identifiers = push(messages)
        for identifier, message, sent in zip(
            identifiers, messages, mail.sent[-len(messages) :], strict=True
        ):
            if sent.site == "south":
                mail.grid.waiting[identifier].append(reply_to(message, second(sent.content)))
        return identifiers

    mail.grid.push_messages = push_all
    return ask(mail, **how)


def test_the_same_answer_twice_counts_once(mail: Mail) -> None:
    found = twice(mail, lambda content: sealed("south", content))
    assert list(found.replies) == ["north", "south"]
    assert found.bytes_up == sum(len(sealed(s, mail.contents(s)[0])) for s in ("north", "south"))


def test_the_first_of_two_answers_counts(mail: Mail) -> None:
    found = twice(mail, refuses("on second thoughts, no"))
    assert list(found.replies) == ["north", "south"]
    assert found.refused == {}


def test_an_answer_to_a_message_of_nobody(mail: Mail) -> None:
    mail.does["south"] = lambda _: None
    post = mail.post("north", "south")
    ask(mail, post=post, min_survivors=1, seconds=5.0)
    mail.does["south"] = lambda content: sealed("south", content)
    stale = Message(wrap(b"x"), mail.nodes["south"].node_id, MessageType.TRAIN)
    stale.metadata.__dict__["_message_id"] = "m1"
    mail.grid.also = [Message(wrap(sealed("south", mail.contents("south")[0])), reply_to=stale)]
    found = ask(mail, post=post)
    assert list(found.replies) == ["north", "south"]


def test_who_is_waited_for_is_told(mail: Mail) -> None:
    mail.does["north"] = lambda _: None
    del mail.nodes["south"]
    ask(mail, seconds=5.0)
    assert mail.told == ["waiting for north, south (not connected)"]


def test_a_message_without_content(mail: Mail) -> None:
    mail.does["south"] = lambda content: sealed("south", content)
    mail.grid.empties = 1
    assert list(ask(mail).replies) == ["north", "south"]
    mail.grid.empties = 20
    assert ask(mail, seconds=5.0).silent == dict.fromkeys(("north", "south"), "its relay sent nothing")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("flushes", range(4))
def test_counters_never_repeat_over_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    """Killed at each flush to the disk, which a taken number needs two of."""
    flush, left = os.fsync, [flushes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        flush(descriptor)

    taken = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with suppress(KilledError):
            while True:
                taken.append(RunFolder(tmp_path).take_counter())
    assert len(taken) == flushes // 2
    taken += [RunFolder(tmp_path).take_counter() for _ in range(2)]
    assert taken == sorted(set(taken))


@pytest.mark.parametrize("content", [b"", b"x", b"1.5", b"\xff"])
def test_a_damaged_counter(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "counter").write_bytes(content)
    with pytest.raises(RunError, match="counter cannot be read"):
        RunFolder(tmp_path).take_counter()


TAKE = """
import sys
from pathlib import Path
from runs.run_folder import RunFolder

while True:
    print(RunFolder(Path(sys.argv[1])).take_counter(), flush=True)
"""


def test_counters_never_repeat_over_processes(tmp_path: Path) -> None:
    taken = [RunFolder(tmp_path).take_counter()]
    process = children.start([sys.executable, "-c", TAKE, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        taken += [int(process.stdout.readline()) for _ in range(5)]
        os.kill(process.pid, signal.SIGKILL)
        taken += [int(line) for line in process.communicate()[0].splitlines()]
    finally:
        process.kill()
        process.wait()
    taken.append(RunFolder(tmp_path).take_counter())
    assert taken == sorted(set(taken))


def test_answers_are_handed_over_as_they_come(mail: Mail) -> None:
    """South's is there while north's is still awaited; what comes back is kept in its place."""
    taken: list[tuple[float, str]] = []

    def take(site: str, reply: Reply) -> Reply:
        taken.append((mail.ticking.time, site))
        return Reply(site=site)

    late = mail.does["north"]
    mail.does["north"] = lambda _: FAILED
    mail.ticking.events.append((30.0, lambda: mail.does.update(north=late)))
    found = ask(mail, take=take, seconds=3600.0)
    assert [site for _, site in taken] == ["south", "north"]
    assert taken[0][0] == 0
    assert taken[1][0] > 30
    assert found.replies == {site: Reply(site=site) for site in ("north", "south")}


def test_who_is_turned_down_has_refused(mail: Mail) -> None:
    """Its answer is not asked for again, and does not count towards those that are enough."""

    def take(site: str, reply: Reply) -> Reply:
        if site == "north":
            raise ProtocolError("its receipt is wrong")
        return reply

    found = ask(mail, take=take, enough=1)
    assert list(found.replies) == ["south"]
    assert str(found.refused["north"]) == "its receipt is wrong"
    assert len(mail.contents("north")) == 1


def test_the_same_answer_twice_is_handed_over_once(mail: Mail) -> None:
    taken: list[str] = []

    def take(site: str, reply: Reply) -> Reply:
        taken.append(site)
        return reply

    twice(mail, lambda content: sealed("south", content), take=take)
    assert sorted(taken) == ["north", "south"]


def test_an_answer_that_is_too_long_refuses(mail: Mail) -> None:
    """Its site is not asked again, and others count."""
    ask(mail)
    longest = len(sealed("north", mail.contents("north")[0]))
    long = joined("south")
    long.joined.session_key = bytes(1)
    mail.does["south"] = lambda content: sealed("south", content, long)
    found = ask(mail, longest={"join": longest}.__getitem__)
    assert list(found.replies) == ["north"]
    assert len(mail.contents("south")) == 2
    assert f"in answer to join: expected {longest} at most" in str(found.refused["south"])
    assert str(found.refused["south"]).startswith(f"south sent {longest + 3} bytes")


def test_an_answer_that_is_not_fetched_for_its_length_refuses(mail: Mail) -> None:
    mail.does["south"] = lambda _: Error(code=2, reason=f"{TOO_LONG}: expected 400 bytes at most")
    found = ask(mail)
    assert list(found.replies) == ["north"]
    assert len(mail.contents("south")) == 1
    assert str(found.refused["south"]) == f"south: {TOO_LONG}: expected 400 bytes at most"


def test_requests_are_sealed_as_they_are_sent(mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no sooner: all at once they would hold an adapter a site. Again they are the same bytes."""
    monkeypatch.setattr("server.post.sealed_post._MOST_BYTES", 10)
    made: list[str] = []

    def make(site: str) -> Request:
        made.append(site)
        return JOIN

    states: list[list[str]] = []
    honest = dict(mail.does)
    mail.does["north"] = lambda content: (states.append(list(made)), honest["north"](content))[1]
    mail.does["south"] = lambda _: FAILED
    mail.ticking.events.append((5.0, lambda: mail.does.update(south=honest["south"])))
    post = mail.post("north", "south")
    requests = Requests(["north", "south"], make)
    found = post.ask(requests, round_number=3, min_survivors=2, seconds=60.0)
    assert list(found.replies) == ["north", "south"]
    assert states == [["north"]]
    assert made.count("south") == len(mail.contents("south")) > 1
    assert len(set(mail.contents("south"))) == 1
