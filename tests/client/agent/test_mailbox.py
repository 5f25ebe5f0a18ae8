"""What a mailbox opens, and what it keeps."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from client.agent.mailbox import Mailbox
from privacy.errors import ProtocolError, RunError, SignatureError
from privacy.identity import Identity
from protocol.messages.confide_pb2 import Envelope
from protocol.messages.envelope import CLOCK_TOLERANCE, COORDINATOR, Header, open_envelope
from tests.client.agents import NOW, SITE, Coordinator


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator(clock=NOW)


@pytest.fixture
def identity() -> Identity:
    return Identity.generate()


@pytest.fixture
def mailbox(tmp_path: Path, coordinator: Coordinator, identity: Identity) -> Mailbox:
    return another(tmp_path, coordinator, identity)


def another(folder: Path, coordinator: Coordinator, identity: Identity) -> Mailbox:
    """The mailbox of the site's next process."""
    public = coordinator.identity.public
    return Mailbox(folder / "outbox", site=SITE, identity=identity, coordinator=public, clock=lambda: NOW)


def header(coordinator: Coordinator, mailbox: Mailbox, payload: bytes, **changes: Any) -> Header:
    return mailbox.open_request(coordinator.seal(payload, **changes)).header


@pytest.mark.parametrize("content", [b"", b"\xff", b"hello", b"\n\x02{}", bytes(1000)])
def test_garbage_is_not_opened(mailbox: Mailbox, content: bytes) -> None:
    with pytest.raises(ProtocolError):
        mailbox.open_request(content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"receiver": "south"}, "got one from coordinator to south"),
        ({"receiver": COORDINATOR}, "to coordinator"),
        ({"sender": SITE}, "got one from north"),
        ({"expires": NOW - 1}, "expired 1 s ago"),
        ({"sent": NOW + CLOCK_TOLERANCE + 1}, "in this clock's future"),
        ({"sent": float("inf")}, "no numbers"),
        ({"expires": float("nan")}, "no numbers"),
        ({"counter": -1}, "expected a round and a counter from 0"),
        ({"counter": 2**31}, "expected a round and a counter from 0"),
        ({"round_number": -1}, "expected a round and a counter from 0"),
        ({"round_number": 2**40}, "expected a round and a counter from 0"),
        ({"run": "r" * 121}, "120 letters at most"),
    ],
)
def test_what_is_for_others_or_out_of_time_is_not_opened(
    mailbox: Mailbox, coordinator: Coordinator, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ProtocolError, match=words):
        mailbox.open_request(coordinator.seal(b"x", **changes))


def test_nobody_elses_signature_opens_it(
    mailbox: Mailbox, coordinator: Coordinator, identity: Identity
) -> None:
    for forger in (Identity.generate(), identity):
        with pytest.raises(SignatureError):
            mailbox.open_request(coordinator.seal(b"x", identity=forger, expires=NOW - 1))


@pytest.mark.parametrize("part", ["header", "payload", "signature"])
def test_no_part_of_an_envelope_can_be_changed(
    mailbox: Mailbox, coordinator: Coordinator, part: str
) -> None:
    envelope = Envelope.FromString(coordinator.seal(b"x" * 20))
    other = Envelope.FromString(coordinator.seal(b"y" * 20))
    setattr(envelope, part, getattr(other, part))
    with pytest.raises(ProtocolError):
        mailbox.open_request(envelope.SerializeToString())


def test_what_was_answered_is_not_answered_differently(mailbox: Mailbox, coordinator: Coordinator) -> None:
    first = header(coordinator, mailbox, b"first")
    second = header(coordinator, mailbox, b"second")
    mailbox.keep(second, b"reply", kind="trained", counter=second.counter)
    with pytest.raises(ProtocolError, match="expected a counter above 2 in run run, got 1"):
        mailbox.kept(first)
    with pytest.raises(ProtocolError, match="above 2 in run run, got 2"):
        mailbox.kept(header(coordinator, mailbox, b"other", counter=2))


def test_a_later_process_knows_what_was_answered(
    mailbox: Mailbox, coordinator: Coordinator, identity: Identity, tmp_path: Path
) -> None:
    first, asked = header(coordinator, mailbox, b"first"), header(coordinator, mailbox, b"asked")
    mailbox.keep(asked, b"line\nand line", kind="trained", counter=asked.counter)
    after = another(tmp_path, coordinator, identity)
    assert after.kept(asked) == b"line\nand line"
    with pytest.raises(ProtocolError):
        after.kept(first)


def test_a_request_that_is_asked_again_counts_under_its_later_counter(
    mailbox: Mailbox, coordinator: Coordinator
) -> None:
    asked = header(coordinator, mailbox, b"asked", counter=3)
    mailbox.keep(asked, b"reply", kind="trained", counter=3)
    between = header(coordinator, mailbox, b"between", counter=5)
    assert mailbox.kept(between) is None
    assert mailbox.kept(header(coordinator, mailbox, b"asked", counter=7)) == b"reply"
    with pytest.raises(ProtocolError, match="above 7"):
        mailbox.kept(between)


def test_joining_again_does_not_lose_what_was_trained(mailbox: Mailbox, coordinator: Coordinator) -> None:
    """A coordinator that was killed joins before it asks for the round whose answers it lost."""
    join, train = header(coordinator, mailbox, b"join"), header(coordinator, mailbox, b"train")
    mailbox.keep(join, b"joined", kind="joined", counter=1)
    mailbox.keep(train, b"trained", kind="trained", counter=2)
    assert mailbox.kept(header(coordinator, mailbox, b"join", counter=3)) == b"joined"
    assert mailbox.kept(header(coordinator, mailbox, b"train", counter=4)) == b"trained"
    with pytest.raises(ProtocolError, match="above 4"):
        mailbox.kept(header(coordinator, mailbox, b"train of the next round", counter=3))


def test_runs_have_counters_of_their_own_and_counters_may_skip(
    mailbox: Mailbox, coordinator: Coordinator, tmp_path: Path
) -> None:
    for run in ("run", "../../run", "another", "r" * 120):
        asked = header(coordinator, mailbox, b"asked", run=run, counter=90)
        assert mailbox.kept(asked) is None
        mailbox.keep(asked, run.encode(), kind="trained", counter=90)
        assert mailbox.kept(asked) == run.encode()
    assert mailbox.kept(header(coordinator, mailbox, b"next", counter=1000)) is None
    # Whatever a run is called, it is a file in the outbox, which its owner alone reads.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {tmp_path / "outbox"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert len(files) == 4


def test_a_damaged_record_answers_nothing(
    mailbox: Mailbox, coordinator: Coordinator, tmp_path: Path
) -> None:
    asked = header(coordinator, mailbox, b"asked")
    mailbox.keep(asked, b"reply", kind="trained", counter=1)
    path = next((tmp_path / "outbox").iterdir())
    path.write_bytes(path.read_bytes()[5:])
    with pytest.raises(RunError, match="is damaged"):
        mailbox.kept(asked)


def test_a_reply_fits_its_request_alone(
    mailbox: Mailbox, coordinator: Coordinator, identity: Identity
) -> None:
    asked = header(coordinator, mailbox, b"asked", counter=9, round_number=4)
    sealed = mailbox.seal(asked, b"reply")
    opened = open_envelope(sealed, public_key=identity.public, sender=SITE, receiver=COORDINATOR)
    found = opened.header
    assert (found.run, found.round, found.counter, found.expires) == ("run", 4, 9, asked.expires)
    assert opened.payload == b"reply"
    with pytest.raises(ProtocolError):
        mailbox.open_request(sealed)  # it does not come back as a request


def test_an_old_repetition_does_not_open_the_way_for_what_came_between(
    mailbox: Mailbox, coordinator: Coordinator
) -> None:
    """Whoever carries the messages kept one back, and repeats an earlier one that is answered again."""
    mailbox.keep(header(coordinator, mailbox, b"join", counter=1), b"joined", kind="joined", counter=1)
    assert mailbox.kept(header(coordinator, mailbox, b"join", counter=8)) == b"joined"
    old = header(coordinator, mailbox, b"join", counter=1)
    assert mailbox.kept(old) == b"joined"
    mailbox.keep(old, b"joined", kind="joined", counter=1)
    with pytest.raises(ProtocolError, match="expected a counter above 8"):
        mailbox.kept(header(coordinator, mailbox, b"train", counter=2))


def test_an_answer_that_could_not_be_kept_is_not_worked_on(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox.make_room(1000)
    assert list(mailbox._outbox.iterdir()) == []

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.agent.mailbox.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        mailbox.make_room(1000)
    assert list(mailbox._outbox.iterdir()) == []
