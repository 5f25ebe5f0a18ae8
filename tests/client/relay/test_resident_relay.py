"""The resident relay: every message is answered, none waits for another, and none does harm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client.relay.resident_relay import ResidentRelay
from privacy.errors import ProtocolError, RunError
from protocol.messages.flower import unwrap
from protocol.processes.flower_internals import RunNotRunningException, object_ids
from tests.client.relay.fleets import PATIENCE, Superlink


@pytest.fixture
def superlink() -> Superlink:
    return Superlink()


@contextmanager
def relaying(
    superlink: Superlink, deliver: Callable[[bytes], bytes], **bounds: int
) -> Iterator[ResidentRelay]:
    relay, over = ResidentRelay(superlink.fleet, deliver, **bounds), threading.Event()
    thread = threading.Thread(target=relay.run, kwargs={"over": over.is_set})
    thread.start()
    try:
        yield relay
    finally:
        over.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("size", [0, 10, 3_000_000], ids=["nothing", "short", "in pieces"])
def test_an_envelope_goes_to_the_agent_and_its_answer_back(superlink: Superlink, size: int) -> None:
    sent = superlink.send(bytes(size))
    with relaying(superlink, lambda envelope: b"<" + envelope):
        (answer,) = superlink.wait_for(1)
    assert unwrap(answer.content) == b"<" + bytes(size)
    metadata = answer.metadata
    assert (metadata.reply_to_message_id, metadata.src_node_id, metadata.run_id) == (sent, 2, 1)


def test_a_message_in_one_piece_needs_nothing_more(superlink: Superlink) -> None:
    """No object is fetched, and nothing is to be forgotten."""
    sent = superlink.send_whole(b"there")
    with relaying(superlink, lambda envelope: b"<" + envelope) as relay:
        (answer,) = superlink.wait_for(1)
        assert unwrap(answer.content) == b"<there"
        assert answer.metadata.reply_to_message_id == sent
        superlink.send(b"another")
        superlink.wait_for(2)
        assert superlink.confirmed.acquire(timeout=PATIENCE)
    assert not superlink.confirmed.acquire(blocking=False)
    assert relay._room._left == relay._room.most


def test_a_message_in_one_piece_takes_its_bytes(superlink: Superlink) -> None:
    superlink.send_whole(bytes(5000))
    with relaying(superlink, lambda envelope: envelope, most_bytes=4000):
        (answer,) = superlink.wait_for(1)
    assert "4000 bytes at most" in answer.error.reason


def test_a_long_request_holds_up_no_other(superlink: Superlink) -> None:
    let = threading.Event()

    def deliver(envelope: bytes) -> bytes:
        assert envelope != b"training" or let.wait(PATIENCE)
        return envelope

    superlink.send(b"training")
    with relaying(superlink, deliver):
        superlink.send(b"status")
        assert unwrap(superlink.wait_for(1)[0].content) == b"status"
        let.set()
        assert unwrap(superlink.wait_for(2)[1].content) == b"training"


def test_no_more_is_taken_than_there_are_places(superlink: Superlink) -> None:
    let, begun = threading.Event(), threading.Semaphore(0)

    def deliver(envelope: bytes) -> bytes:
        begun.release()
        assert let.wait(PATIENCE)
        return envelope

    for number in range(5):
        superlink.send(bytes([number]))
    with relaying(superlink, deliver, most_at_once=2):
        assert begun.acquire(timeout=PATIENCE)
        assert begun.acquire(timeout=PATIENCE)
        assert len(superlink.gives) == 3  # they wait at the SuperLink
        let.set()
        answers = superlink.wait_for(5)
    assert sorted(unwrap(answer.content) for answer in answers) == [bytes([n]) for n in range(5)]


def test_a_message_has_its_place_and_bytes_until_nothing_of_it_is_fetched(superlink: Superlink) -> None:
    """Of its objects one is refused while another trickles: each message could leave a thread behind."""
    let, pull, refused = threading.Event(), superlink.pull, set[str]()

    def refuse_or_trickle(run: int, name: str) -> bytes:
        if name in refused:
            raise RuntimeError("refused")
        assert let.wait(PATIENCE)
        return pull(run, name)

    object.__setattr__(superlink.fleet, "pull_object", refuse_or_trickle)
    for number in range(5):
        superlink.send(bytes([number]) * 3_000_000)
        refused.add(object_ids(superlink.gives[-1][1])[1])  # the first two are fetched side by side
    with relaying(superlink, lambda envelope: envelope, most_at_once=2) as relay:
        assert all(answer.has_error() for answer in superlink.wait_for(2))
        # They are answered, and have their places: the others wait at the SuperLink.
        assert not relay._places.acquire(timeout=0.2)
        assert (len(superlink.gives), len(superlink.answers)) == (3, 2)
        let.set()
        superlink.wait_for(5)
    for _ in range(2):  # both places are given back, and all bytes
        assert relay._places.acquire(timeout=PATIENCE)
    assert relay._room._left == relay._room.most


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProtocolError("turned the envelope away: no"), "turned the envelope away: no"),
        (RunError("the site's agent could not be reached"), "could not be reached"),
        (ValueError("patient 7 has a secret"), "could not make use of the message: ValueError"),
    ],
)
def test_what_fails_is_answered_with_an_error(superlink: Superlink, error: Exception, reason: str) -> None:
    """An error that is not Confide's own may quote anything: only its kind is told."""

    def deliver(_envelope: bytes) -> bytes:
        raise error

    superlink.send(b"x")
    with relaying(superlink, deliver):
        (answer,) = superlink.wait_for(1)
    assert answer.has_error()
    assert reason in answer.error.reason
    assert "patient" not in answer.error.reason


def broken_tree(superlink: Superlink) -> None:
    """Objects that make no message."""
    superlink.send(b"x")
    superlink.objects = dict.fromkeys(superlink.objects, b"no object at all")


def too_long(superlink: Superlink) -> None:
    superlink.send(bytes(200_000))


HOSTILE: dict[str, Callable[[Superlink], object]] = {
    "another record": lambda superlink: superlink.send(RecordDict({"x": ConfigRecord({"other": b"x"})})),
    "another value": lambda superlink: superlink.send(
        RecordDict({"confide": ConfigRecord({"confide": 5})})
    ),
    "an empty record": lambda superlink: superlink.send(RecordDict({"confide": ArrayRecord()})),
    "objects that make no message": broken_tree,
    "objects that are not there": lambda superlink: superlink.send(b"x", lacks=1),
    "more than there is room for": too_long,
}


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=HOSTILE)
def test_a_message_that_is_none_gets_an_error_and_the_next_one_an_answer(
    superlink: Superlink, attack: Callable[[Superlink], object]
) -> None:
    delivered: list[bytes] = []

    def deliver(envelope: bytes) -> bytes:
        delivered.append(envelope)
        return envelope

    superlink.send(b"awake")  # a relay that has heard nothing yet looks seldom
    with relaying(superlink, deliver, most_bytes=100_000):
        superlink.wait_for(1)
        superlink.answers.clear()
        for _ in range(3):  # what it held is given back each time
            attack(superlink)
            superlink.wait_for(1)
            assert superlink.answers.pop().has_error()
        superlink.send(bytes(90_000))
        (answer,) = superlink.wait_for(1)
    assert unwrap(answer.content) == bytes(90_000)
    assert delivered == [b"awake", bytes(90_000)]


def test_a_superlink_that_talks_nonsense_is_asked_again(superlink: Superlink) -> None:
    def nonsense() -> None:
        raise MemoryError

    def over() -> None:
        raise RunNotRunningException

    superlink.send(b"at first")
    superlink.gives.extend([nonsense, over])
    superlink.send(b"at last")
    with relaying(superlink, lambda envelope: envelope):
        answers = superlink.wait_for(2)
    assert {unwrap(answer.content) for answer in answers} == {b"at first", b"at last"}
    assert superlink.looks >= 4


@pytest.mark.parametrize("error", [RunNotRunningException(), OSError("gone")])
def test_an_answer_that_nobody_takes_is_dropped(superlink: Superlink, error: Exception) -> None:
    superlink.fails.append(error)
    superlink.send(b"one")
    superlink.send(b"two")
    with relaying(superlink, lambda envelope: envelope, most_at_once=1):
        (answer,) = superlink.wait_for(1)
    assert unwrap(answer.content) == b"two"


@pytest.mark.parametrize("error", [RunNotRunningException(), OSError("gone")])
def test_a_message_that_cannot_be_confirmed_ends_nothing(
    superlink: Superlink, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a relay ends with any of its threads that fails."""
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    superlink.over = error
    superlink.send(b"x")
    with relaying(superlink, lambda envelope: envelope):
        superlink.wait_for(1)
        assert superlink.confirmed.acquire(timeout=PATIENCE)
        superlink.send(b"y")
        superlink.wait_for(2)
        assert superlink.confirmed.acquire(timeout=PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "message":
            thread.join(PATIENCE)
    assert failed == []
