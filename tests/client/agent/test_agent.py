"""The agent against a relay that may be anyone's code."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.agent.agent import DELIVERIES
from client.agent.mailbox import Mailbox
from client.agent.quota import Intake
from client.agent.running import told_to_stop
from client.agent.worker import Worker
from privacy.errors import ProtocolError
from privacy.identity import Identity
from protocol.messages.channel import CHUNK_BYTES, LONGEST_CHUNK, in_chunks, open_channel
from protocol.messages.confide_pb2 import AgentHealth, Chunk, HealthRequest
from protocol.messages.confide_pb2_grpc import AgentStub
from tests.client.agents import NOW, SITE, Coordinator, Echo, Served, code_of, serving

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
GONE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def served(tmp_path: Path, coordinator: Coordinator, echo: Echo) -> Iterator[Served]:
    with serving(tmp_path, coordinator.identity, echo) as found:
        yield found
        echo.let.set()


def health(served: Served) -> AgentHealth:
    with open_channel(served.address, None) as channel:
        return AgentStub(channel).Health(HealthRequest(), timeout=10)


def refused(act: Callable[[], Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        act()
    return code_of(caught.value)


# What it does not do.


@pytest.mark.parametrize("content", [b"", b"\xff", b"hello" * 1000, bytes(3 * CHUNK_BYTES + 1)])
def test_garbage_comes_to_nothing(served: Served, echo: Echo, content: bytes) -> None:
    assert refused(lambda: served.deliver(content)) is INVALID
    assert not echo.answered


@pytest.mark.parametrize(
    "changes",
    [
        {"receiver": "south"},
        {"sender": "south"},
        {"identity": Identity.generate()},
        {"expires": 1.0},
        {"sent": 1e12, "expires": 2e12},
    ],
    ids=["for another", "from another", "forged", "expired", "from the future"],
)
def test_what_is_no_envelope_for_this_site_comes_to_nothing(
    served: Served, echo: Echo, coordinator: Coordinator, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert refused(lambda: served.deliver(coordinator.seal(b"x", **changes))) is INVALID
    assert not echo.answered
    assert not (tmp_path / "outbox").exists()


def test_what_was_answered_is_not_done_again(served: Served, echo: Echo, coordinator: Coordinator) -> None:
    first, second = coordinator.seal(b"first"), coordinator.seal(b"second")
    once = served.deliver(first)
    assert served.deliver(first) == once
    served.deliver(second)
    assert refused(lambda: served.deliver(first)) is INVALID
    assert echo.answered == [b"first", b"second"]


def test_the_answer_that_is_kept_comes_under_the_counter_that_asks(
    served: Served, echo: Echo, coordinator: Coordinator
) -> None:
    for counter in (1, 2, 3):
        sealed = served.raw(in_chunks(coordinator.seal(b"same")))
        assert served.open(sealed).header.counter == counter
    assert echo.answered == [b"same"]
    assert refused(lambda: served.deliver(coordinator.seal(b"other", counter=2))) is INVALID


def test_a_refusal_is_not_kept(served: Served, echo: Echo, coordinator: Coordinator) -> None:
    envelope = coordinator.seal(b"asked")
    echo.refuse = True
    assert served.deliver(envelope).HasField("refused")
    echo.refuse = False
    assert served.deliver(envelope).HasField("joined")
    assert len(echo.answered) == 2


def test_half_an_envelope_comes_to_nothing(served: Served, echo: Echo, coordinator: Coordinator) -> None:
    whole = coordinator.seal(os.urandom(3 * CHUNK_BYTES))
    assert refused(lambda: served.deliver(whole[: len(whole) // 2])) is INVALID
    hanging_up = threading.Event()

    def half() -> Iterator[Chunk]:
        yield from list(in_chunks(whole))[:2]
        hanging_up.set()
        threading.Event().wait(20)

    with open_channel(served.address, None) as channel:
        call = AgentStub(channel).Deliver(half())
        assert hanging_up.wait(20)
        call.cancel()
    assert served.deliver(whole).HasField("joined")
    assert len(echo.answered) == 1


def test_an_envelope_that_is_too_long_is_cut_off(
    tmp_path: Path, coordinator: Coordinator, echo: Echo
) -> None:
    intake = Intake(most=4 * CHUNK_BYTES)
    sent = []

    def endless() -> Iterator[Chunk]:
        while True:
            sent.append(CHUNK_BYTES)
            yield Chunk(data=bytes(CHUNK_BYTES))

    with serving(tmp_path, coordinator.identity, echo, intake=intake) as served:
        assert refused(lambda: served.raw(endless())) is INVALID
        assert sum(sent) < 100 * CHUNK_BYTES
        assert served.deliver(coordinator.seal(bytes(2 * CHUNK_BYTES))).HasField("joined")
    assert intake.held == 0


def test_a_chunk_that_is_too_long_is_not_taken(served: Served, echo: Echo) -> None:
    chunk = Chunk(data=bytes(LONGEST_CHUNK + 1))
    with grpc.insecure_channel(served.address) as channel:
        assert refused(lambda: list(AgentStub(channel).Deliver(iter([chunk]), timeout=20))) is EXHAUSTED
    assert health(served).state == "idle"


def test_all_envelopes_together_are_bounded(tmp_path: Path, coordinator: Coordinator, echo: Echo) -> None:
    intake = Intake(most=4 * CHUNK_BYTES)
    echo.let.clear()
    with serving(tmp_path, coordinator.identity, echo, intake=intake) as served:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.deliver, coordinator.seal(bytes(3 * CHUNK_BYTES)))
            assert echo.begun.acquire(timeout=20)
            assert refused(lambda: served.deliver(coordinator.seal(bytes(2 * CHUNK_BYTES)))) is EXHAUSTED
            echo.let.set()
            assert first.result(20).HasField("joined")
        assert served.deliver(coordinator.seal(bytes(2 * CHUNK_BYTES))).HasField("joined")


def test_the_queue_is_bounded_and_health_answers_beside_it(
    tmp_path: Path, coordinator: Coordinator, echo: Echo
) -> None:
    echo.let.clear()
    with (
        serving(tmp_path, coordinator.identity, echo, queue=2) as served,
        ThreadPoolExecutor(3) as pool,
        open_channel(served.address, None) as channel,
    ):
        calls = [pool.submit(served.deliver, coordinator.seal(b"0", round_number=7))]
        assert echo.begun.acquire(timeout=20)
        stub = AgentStub(channel)
        waiting = []
        for content in (b"1", b"2"):  # counters grow: the first must be there before the second
            waiting.append(stub.Deliver(in_chunks(coordinator.seal(content))))
            until(lambda: health(served).queued == len(waiting))
        assert refused(lambda: served.deliver(coordinator.seal(b"3"))) is EXHAUSTED
        found = health(served)
        assert (found.site, found.state, found.run, found.round) == (SITE, "working", "run", 7)
        echo.let.set()
        assert calls[0].result(20).HasField("joined")
        assert all(list(call) for call in waiting)
    assert sorted(echo.answered) == [b"0", b"1", b"2"]


def test_one_request_that_comes_many_times_at_once_is_done_once(
    served: Served, echo: Echo, coordinator: Coordinator
) -> None:
    echo.let.clear()
    with ThreadPoolExecutor(DELIVERIES) as pool:
        calls = [pool.submit(served.deliver, coordinator.seal(b"same")) for _ in range(DELIVERIES)]
        assert echo.begun.acquire(timeout=20)
        echo.let.set()
        replies = [call.result(20) for call in calls]
    assert all(reply == replies[0] for reply in replies)
    assert echo.answered == [b"same"]
    # The highest of their counters is the one that counts from here on.
    assert refused(lambda: served.deliver(coordinator.seal(b"other", counter=DELIVERIES))) is INVALID


def test_streams_that_never_end_are_few_and_wedge_nothing(
    tmp_path: Path, coordinator: Coordinator, echo: Echo
) -> None:
    over = threading.Event()

    def slow() -> Iterator[Chunk]:
        yield Chunk(data=b"x")
        over.wait(30)

    with (
        serving(tmp_path, coordinator.identity, echo, transfer_seconds=0.2) as served,
        ExitStack() as stack,
    ):
        channel = stack.enter_context(open_channel(served.address, None))
        calls = [AgentStub(channel).Deliver(slow()) for _ in range(2 * DELIVERIES)]
        # Each is ended by the agent, whether there was room for it or not; and then there is room again.
        assert {refused(lambda call=call: list(call)) for call in calls} <= {
            EXHAUSTED,
            grpc.StatusCode.CANCELLED,
        }
        over.set()
        until(lambda: try_deliver(served, coordinator) is None)


def test_questions_that_are_opened_and_never_asked_wedge_nothing(served: Served) -> None:
    over = threading.Event()

    def never() -> Iterator[HealthRequest]:
        over.wait(30)
        yield HealthRequest()

    with open_channel(served.address, None) as channel:
        ask = channel.stream_unary(
            "/confide.Agent/Health",
            request_serializer=HealthRequest.SerializeToString,
            response_deserializer=AgentHealth.FromString,
        )
        answers = [ask.future(never(), timeout=20) for _ in range(8)]
        assert {answer.result(20).site for answer in answers} == {SITE}
        assert health(served).site == SITE
        over.set()


@pytest.mark.process
def test_answers_that_nobody_reads_wedge_nothing(
    tmp_path: Path, coordinator: Coordinator, echo: Echo
) -> None:
    with serving(tmp_path, coordinator.identity, echo, transfer_seconds=4.0) as served:
        with open_channel(served.address, None) as channel:
            envelope = coordinator.seal(bytes(4 * CHUNK_BYTES))
            unread = [AgentStub(channel).Deliver(in_chunks(envelope)) for _ in range(DELIVERIES)]
            for call in unread:
                call.initial_metadata()  # its answer has begun to come
            # None of them is read, and yet there is room again.
            until(lambda: try_deliver(served, coordinator) is None)
            assert len(unread) == DELIVERIES
        assert health(served).state == "idle"


def test_an_unknown_method_is_none(served: Served) -> None:
    with open_channel(served.address, None) as channel:
        call = channel.unary_unary("/confide.Agent/Approve")
        assert refused(lambda: call(b"", timeout=20)) is grpc.StatusCode.UNIMPLEMENTED


# Its end.


def test_an_agent_that_stops_says_so_and_gives_up_what_waits(
    served: Served, echo: Echo, coordinator: Coordinator
) -> None:
    echo.let.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(served.deliver, coordinator.seal(b"runs"))
        assert echo.begun.acquire(timeout=20)
        waiting = pool.submit(served.deliver, coordinator.seal(b"waits"))
        until(lambda: health(served).queued == 1)
        served.worker.stop()
        assert refused(lambda: waiting.result(20)) is GONE
        assert refused(lambda: served.deliver(coordinator.seal(b"late"))) is GONE
        assert health(served).state == "stopping"
        echo.let.set()
        assert running.result(20).HasField("joined")
    assert echo.answered == [b"runs"]


def test_an_envelope_that_waited_too_long_is_not_worked_on(
    tmp_path: Path, coordinator: Coordinator, echo: Echo
) -> None:
    now = [NOW]
    public = coordinator.identity.public
    mailbox = Mailbox(
        tmp_path, site=SITE, identity=Identity.generate(), coordinator=public, clock=lambda: now[0]
    )
    worker = Worker(mailbox, queue=1)
    waits = worker.submit(mailbox.open_request(coordinator.seal(b"x", sent=NOW, expires=NOW + 9)))
    now[0] += 10
    worker.start(echo)
    with pytest.raises(ProtocolError, match="expired 1 s ago"):
        waits.result(20)
    worker.stop()
    assert worker.join(20)
    assert not echo.answered


def test_the_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    with told_to_stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert not ended
        signal.raise_signal(signal.SIGINT)
        assert ended == [128 + signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_site_that_fails_says_nothing_of_how(
    tmp_path: Path, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def answer(self, opened: object) -> bytes:
            raise RuntimeError("patient 17 has ...")

    with serving(tmp_path, coordinator.identity, Broken()) as served:
        with pytest.raises(grpc.RpcError) as caught:
            served.deliver(coordinator.seal(b"x"))
        assert code_of(caught.value) is grpc.StatusCode.INTERNAL
        assert "patient" not in caught.value.details()
        assert health(served).state == "idle"


def try_deliver(served: Served, coordinator: Coordinator) -> grpc.StatusCode | None:
    try:
        served.deliver(coordinator.seal(b"x"))
    except grpc.RpcError as error:
        return code_of(error)
    return None


def until(holds: Callable[[], bool]) -> None:
    """Ask until it holds: what is waited for takes as long as another thread takes."""
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        if holds():
            return
    raise AssertionError("it never came to hold")
