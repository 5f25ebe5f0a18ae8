"""The agent's one worker: envelopes wait for it in a short queue, and each is answered once."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from client.agent.agent_status import Status
from client.agent.agent_telemetry import Telemetry
from client.agent.mailbox import Mailbox
from client.agent.patience import Patience
from client.training.cancellation import StoppedError
from privacy.errors import ConfideError, ProtocolError
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import Header, Opened
from protocol.messages.message_kinds import longest_answer
from protocol.processes.json_log import about

log = logging.getLogger("confide.agent")


class FullError(ConfideError):
    """The queue is full, or too much was refused: ask again later."""


class Answerer(Protocol):
    """What makes a reply of a request, both serialized; used on the worker's thread alone."""

    def answer(self, opened: Opened) -> bytes:
        """Raises StoppedError alone."""
        ...


@dataclass(kw_only=True)
class _Work:
    """A request that waits or is worked on; ``counter`` is the highest under which it was asked."""

    opened: Opened
    counter: int
    future: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    repeated: bool = False  # it was answered before, and the reply is kept

    @property
    def header(self) -> Header:
        return self.opened.header

    @property
    def key(self) -> tuple[str, str]:
        return self.header.run, self.header.payload


class Worker:
    """One thread, which alone touches what ``answerer`` holds, and writes the outbox.

    ``between`` goes to whatever takes steps: it tells how far they are, and ends them when the worker is
    to stop.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        *,
        queue: int,
        telemetry: Telemetry | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._patience = patience or Patience()
        self.telemetry = telemetry or Telemetry()
        self.telemetry.watch(self.status)
        self._most = queue
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._known: dict[tuple[str, str], _Work] = {}
        self._current: _Work | None = None
        self._step = self._steps = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self, answerer: Answerer) -> None:
        self._thread = threading.Thread(target=self._run, args=(answerer,), name="worker", daemon=True)
        self._thread.start()

    def submit(self, opened: Opened) -> Future[bytes]:
        """Have a request answered: its serialized reply, later.

        One that waits or is worked on already is answered once. Raises FullError, or StoppedError while the
        worker stops. The future raises ProtocolError for a request that is not to be answered, StoppedError
        if the worker stops before it is.

        After several refusals in a row nothing new is taken for a while, and the thread is free meanwhile.
        """
        with self._changed:
            if self._stopping:
                raise StoppedError
            work = self._known.get((opened.header.run, opened.header.payload))
            if work is not None:
                work.counter = max(work.counter, opened.header.counter)
                return work.future
            wait = self._patience.wait()
            if wait > 0.0:
                raise FullError(
                    f"the last {self._patience.refusals} requests were refused: send this one again in "
                    f"{math.ceil(wait)} s"
                )
            if len(self._waiting) >= self._most:
                raise FullError(f"{self._most} envelopes wait already: send this one again later")
            work = _Work(opened=opened, counter=opened.header.counter)
            self._known[work.key] = work
            self._waiting.append(work)
            self._changed.notify()
            return work.future

    def between(self, step: int, steps: int) -> None:
        """Called between steps. Raises StoppedError if the worker is to stop."""
        self.telemetry.stepped(step - self._step)
        self._step, self._steps = step, steps
        if self._stopping:
            raise StoppedError

    def status(self) -> Status:
        with self._changed:
            queued, current = len(self._waiting), self._current
            state = "stopping" if self._stopping else "idle" if current is None else "working"
            if current is None:
                return Status(state=state, queued=queued)
            header = current.header
            return Status(
                state=state,
                run=header.run,
                round=max(header.round, 0),
                step=self._step,
                steps=self._steps,
                queued=queued,
            )

    def stop(self) -> None:
        """Take nothing more, give up what waits, end the round after its step. Returns at once."""
        with self._changed:
            self._stopping = True
            given_up = list(self._waiting)
            self._waiting.clear()
            for work in given_up:
                del self._known[work.key]
            self._changed.notify_all()
        for work in given_up:
            work.future.set_exception(StoppedError())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended; whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _run(self, answerer: Answerer) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                work = self._current = self._waiting.popleft()
                self._step = self._steps = 0
            self.telemetry.waited(time.monotonic() - work.since)
            with about(run=work.header.run, round_number=work.header.round):
                self._work_on(work, answerer)
            # It holds what may be a gigabyte: nothing of it is kept while nothing comes.
            del work

    def _work_on(self, work: _Work, answerer: Answerer) -> None:
        reply, error = None, None
        started = time.monotonic()
        try:
            reply = self._answer(work, answerer)
        except BaseException as raised:
            error = raised
        with self._changed:
            # From here on the same request is a new one, which finds the reply that is kept.
            self._known.pop(work.key, None)
        if reply is not None:
            try:
                kind = self._keep(work, reply)
                seconds = time.monotonic() - started
                self.telemetry.answered(kind, seconds=seconds, repeated=work.repeated)
            except Exception as raised:
                reply, error = None, raised
        with self._changed:
            self._current = None
            if reply is not None and not work.repeated:
                self._weigh(reply)
        self._say(work, reply, error, seconds=time.monotonic() - started)
        if reply is None:
            work.future.set_exception(error or RuntimeError("no reply"))
        else:
            work.future.set_result(reply)

    def _answer(self, work: _Work, answerer: Answerer) -> bytes:
        self._mailbox.check_time(work.header)  # it may have waited long
        kept = self._mailbox.kept(work.header)
        work.repeated = kept is not None
        if kept is not None:
            return kept
        # An answer that could not be kept would be asked for, and charged, again.
        self._mailbox.make_room(longest_answer(work.opened.payload))
        reply = answerer.answer(work.opened)
        self.telemetry.stepped(self._steps - self._step)  # nobody is called after the last one
        return reply

    def _keep(self, work: _Work, reply: bytes) -> str | None:
        """Write an answer down, if it is one: what was refused may be asked again, and be allowed then.

        Returns its kind.
        """
        answer = Reply.FromString(reply)
        kind: str | None = answer.WhichOneof("kind")
        if kind == "refused" and answer.refused.lost:
            # What it said when it joined is of secrets that it has lost: it joins anew, in new words.
            self._mailbox.forget(work.header.run, kind="joined")
        elif kind is not None and kind != "refused":
            self._mailbox.keep(work.header, reply, kind=kind, counter=work.counter)
        return kind

    def _weigh(self, reply: bytes) -> None:
        """Count a refusal. One whose secrets were lost asks the coordinator to come again, and at once."""
        answer = Reply.FromString(reply)
        if answer.WhichOneof("kind") != "refused":
            self._patience.accepted()
        elif not answer.refused.lost:
            self._patience.refused()

    @staticmethod
    def _say(work: _Work, reply: bytes | None, error: BaseException | None, *, seconds: float) -> None:
        header = work.header
        what = f"run {header.run}, round {header.round}, request {header.counter}"
        if reply is not None:
            log.info("%s: answered after %.2f s", what, seconds)
        elif isinstance(error, StoppedError):
            log.warning("%s: given up, the agent stops; what was charged stays charged", what)
        elif isinstance(error, ProtocolError):
            log.warning("%s: turned away: %s", what, error)
        else:
            log.error("%s: failed", what, exc_info=error)
