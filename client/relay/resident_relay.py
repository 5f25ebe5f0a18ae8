"""A site's relay: one process that looks for the coordinator's messages and brings them to the agent.

It holds no key that opens anything, imports neither the model nor the data's libraries, and runs nothing
that Flower delivers: what it fetches is bytes. Whoever the SuperLink is, it can make this process busy, up
to the bounds below, and no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Message

from client.relay.pace import SOONEST, Pace
from privacy.errors import ConfideError, ProtocolError
from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_internals import Fleet, RunNotRunningException, failure, has_come_whole

MOST_AT_ONCE = 8  # messages; those of one run come one after the other, or two at a time
MOST_BYTES = 1 << 30  # of all messages that are on their way to the agent
_UPLOAD = 240.0  # seconds that the coordinator may take to upload what it announced
_GLANCE = 1.0  # seconds after which one that waits for a place sees whether it is over
_LONGEST_REASON = 2000  # letters

log = logging.getLogger("confide.relay")


class ResidentRelay:
    """Takes messages from ``fleet`` and answers each with what ``deliver`` makes of its envelope.

    One thread looks, and each message has a thread of its own, so that a request which takes hours holds
    up no other. A message of which nothing comes is answered with an error: the coordinator sends it again.
    Its place is free again once all that was begun of it has ended.
    """

    def __init__(
        self,
        fleet: Fleet,
        deliver: Callable[[bytes], bytes],
        *,
        clock: Callable[[], float] = time.monotonic,
        most_at_once: int = MOST_AT_ONCE,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._fleet = fleet
        self._deliver = deliver
        self._clock = clock
        self._pace = Pace(clock())
        self._places = threading.BoundedSemaphore(most_at_once)
        self._room = _Room(most_bytes)
        self._stirred = threading.Event()
        self._lock = threading.Lock()
        self._under_way = 0

    def run(self, *, over: Callable[[], bool] = lambda: False) -> None:
        """Look, again and again, until ``over`` says so or an exception ends it."""
        while not over():
            # With all places taken, what comes next waits at the SuperLink.
            if not self._wait_for_a_place(over):
                return
            # Where there was one message, there may be another.
            pause = SOONEST if self._look() else self._pause()
            while self._stirred.wait(pause):  # an answer went: what follows it comes soon
                self._stirred.clear()
                pause = self._pause()

    def _wait_for_a_place(self, over: Callable[[], bool]) -> bool:
        """Whether there is one; False if it is over before."""
        while not self._places.acquire(timeout=_GLANCE):
            if over():
                return False
        self._places.release()
        return True

    def _pause(self) -> float:
        return self._pace.pause(self._clock(), busy=self._under_way > 0)

    def _look(self) -> bool:
        """Take one message, if there is one."""
        began = self._clock()
        try:
            found = self._fleet.receive()
        except RunNotRunningException:
            found = None
        except Exception as error:
            # Whatever a SuperLink says instead of an answer: it is asked again, later and later.
            log.warning("the SuperLink's answer cannot be used: %s", type(error).__name__)
            self._pace.failed()
            return False
        now = self._clock()
        self._pace.looked(now - began)
        if found is None:
            return False
        self._pace.hear(now)
        self._places.acquire()
        self._count(1)
        threading.Thread(target=self._carry, args=found, name="message", daemon=True).start()
        return True

    def _count(self, more: int) -> None:
        with self._lock:
            self._under_way += more

    def _carry(self, message: Message, tree: object) -> None:
        """Bring one message to the agent, and its answer back."""
        began, share = self._clock(), _Share(self._room)
        name = message.metadata.message_id[:8]
        try:
            answer = self._answer(message, tree, share)
            self._fleet.answer(answer, seconds=self._clock() - began)
        except RunNotRunningException:
            log.info("message %s: its run is over", name)
        except Exception as error:
            log.warning("message %s: its answer could not be sent: %s", name, type(error).__name__)
        else:
            log.info("message %s: answered after %.2f s", name, self._clock() - began)
        finally:
            self._count(-1)
            self._pace.hear(self._clock())
            self._stirred.set()
            # Where one object failed, others may still be on their way: threads and bytes of this message.
            share.give_back()
            self._places.release()
        if not has_come_whole(message):
            self._forget(message)

    def _forget(self, message: Message) -> None:
        """Let the SuperLink forget what it sent: nobody waits for that, so it comes last."""
        try:
            self._fleet.confirm_received(message.metadata.run_id, message.metadata.message_id)
        except (Exception, RunNotRunningException) as error:
            log.debug("message %s stays: %s", message.metadata.message_id[:8], type(error).__name__)

    def _answer(self, message: Message, tree: object, share: _Share) -> Message:
        """What to answer. Raises RunNotRunningException if nobody waits for it any more."""
        name = message.metadata.message_id[:8]
        try:
            whole = self._fleet.fetch(
                message, tree, seconds=_UPLOAD, take=share.take, pulling=share.pulling
            )
            envelope = unwrap(whole.content)
            del whole  # it is long, and this may wait for hours
            log.info("message %s: %d bytes for the agent", name, len(envelope))
            return Message(wrap(self._deliver(envelope)), reply_to=message)
        except RunNotRunningException:
            raise
        except ConfideError as error:
            reason = str(error)
        except Exception as error:
            # Its text may be anyone's: only what kind it is is told.
            reason = f"the relay could not make use of the message: {type(error).__name__}"
        log.warning("message %s: %s", name, reason)
        return Message(failure(reason[:_LONGEST_REASON]), reply_to=message)


class _Room:
    """Bytes that there is room for, of all messages together."""

    def __init__(self, most: int) -> None:
        self.most = self._left = most
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Raises ProtocolError if there is no room."""
        with self._lock:
            if count > self._left:
                raise ProtocolError(
                    f"expected messages of {self.most} bytes at most, all together, got more: send this "
                    "one again later"
                )
            self._left -= count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._left += count


class _Share:
    """What one message takes of a room."""

    def __init__(self, room: _Room) -> None:
        self._room, self._taken, self._pulls = room, 0, 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Raises ProtocolError if there is no room. Called on several threads."""
        self._room.take(count)
        with self._changed:
            self._taken += count

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Within this block something of the message is being fetched."""
        with self._changed:
            self._pulls += 1
        try:
            yield
        finally:
            with self._changed:
                self._pulls -= 1
                self._changed.notify_all()

    def give_back(self) -> None:
        """Wait until nothing is being fetched, and give all back."""
        with self._changed:
            self._changed.wait_for(lambda: self._pulls == 0)
            taken, self._taken = self._taken, 0
        self._room.give_back(taken)
