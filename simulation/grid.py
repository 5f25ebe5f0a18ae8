"""Flower's Grid in one process: a message is a function call."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import DEFAULT_TTL, Message, RecordDict
from flwr.serverapp import Grid

from protocol.messages.flower import size_of, unwrap, wrap
from protocol.processes.flower_internals import Run, identify_process, make_run
from protocol.processes.time_spent import Part, timed
from simulation.round_progress import RoundProgress

Handler = Callable[[bytes], bytes]

# Bytes of answers that are held until they are settled together: small ones all, of big ones a few.
_MOST_HELD = 1 << 26


class InProcessGrid(Grid):  # type: ignore[misc]  # Flower's types are not followed
    """Delivers each message to the handler of its node, one after another.

    ``progress`` hears of each answer. ``settle`` is called before any of them is handed back: of all at
    once, or of big ones after every few, so that what is held does not grow with the number of nodes.
    """

    def __init__(
        self,
        handlers: Mapping[int, Handler],
        *,
        settle: Callable[[], None] | None = None,
        progress: RoundProgress | None = None,
    ) -> None:
        self._handlers = handlers
        self._settle = settle
        self._progress = progress
        self._replies: dict[str, Message] = {}
        self._counter = itertools.count(1)
        self._run = make_run(int.from_bytes(os.urandom(7), "big"))
        identify_process(run_id=self._run.run_id, node_id=0, task_id=1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl or DEFAULT_TTL)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._handlers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = list(self._deliver(messages))
        self._settle_all()
        return identifiers

    def _settle_all(self) -> None:
        if self._settle is not None:
            with timed(Part.LEDGER):
                self._settle()

    def _deliver(self, messages: Iterable[Message]) -> Iterator[str]:
        """Have each message answered; the answers' identifiers, in the messages' order."""
        for message in messages:
            node = message.metadata.dst_node_id
            answer = self._handlers[node](unwrap(message.content))
            self.answered(node)
            yield self.keep(Message(wrap(answer), reply_to=message))

    def answered(self, node: int) -> None:
        """Tell that a node has answered."""
        if self._progress is not None:
            self._progress.answered(node)

    def keep(self, reply: Message) -> str:
        """Hold a reply until it is pulled, under the identifier that is returned."""
        identifier = str(next(self._counter))
        self._replies[identifier] = reply
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - nothing is waited for
    ) -> Iterable[Message]:
        for some in self._in_parts(messages):
            self._settle_all()
            for identifier in some:
                yield self._replies.pop(identifier)

    def _in_parts(self, messages: Iterable[Message]) -> Iterator[list[str]]:
        """Have the messages answered, and give the answers' identifiers whenever these are much."""
        held: list[str] = []
        size = 0
        for identifier in self._deliver(messages):
            held.append(identifier)
            size += size_of(self._replies[identifier].content)
            if size >= _MOST_HELD:
                yield held
                held, size = [], 0
        if held:
            yield held
