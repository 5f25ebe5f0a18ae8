"""Flower's Grid, without its waits: an answer that a site still uploads holds up nobody else's.

``Grid.pull_messages`` fetches all answers that were announced, one after another, and sleeps for a second
and more where a piece is not there yet. A site that announces an answer and goes away then holds up a round
for the three minutes that Flower gives it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.processes.flower_internals import (
    ObjectPullError,
    Runtime,
    failed_answer,
    inflate,
    inflated_size,
    object_ids,
)

TOO_LONG = "its answer is too long"  # how it is told of an answer that was not fetched for that

_AT_ONCE = 8  # answers that are fetched side by side; each has one request under way
_MOST_HELD = 1 << 27  # bytes that these may have together, but for one that alone has more
_BESIDE = 1 << 16  # bytes of an answer that are Flower's
_A_MOMENT = 0.05  # seconds for a fetch: most take less, and are then part of the look that found them

log = logging.getLogger("confide.post")


class MessageGrid(Protocol):
    """What the post needs of a Grid."""

    def get_nodes(self) -> Iterable[Any]:
        """The nodes that are connected: ``node_id``, ``public_key``, ``last_activated_at``."""
        ...

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages: the identifier of each, in order, empty for one that was not taken."""
        ...

    def pull_messages(self, message_ids: Mapping[str, int]) -> Iterable[Message]:
        """The answers to these messages that are there, each once.

        With each message comes how many bytes its answer may have.
        """
        ...


@dataclass
class _Arriving:
    """An answer that was announced: the objects that it lacks, and those that it has."""

    announced: Message
    tree: Any
    longest: int
    missing: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    fetch: Future[Message | None] | None = None

    def __post_init__(self) -> None:
        self.missing = list(dict.fromkeys(object_ids(self.tree)))

    @property
    def size(self) -> int:
        """The bytes that are here."""
        return sum(map(len, self.contents.values()))

    def take(self, content: bytes) -> None:
        """Take the next object that is missing. Raises _TooLongError."""
        self.contents[self.missing.pop(0)] = content
        self.check(self.size)

    def check(self, size: int) -> None:
        """Raises _TooLongError for more bytes than the answer may have."""
        if size > self.longest + _BESIDE:
            raise _TooLongError(f"{TOO_LONG}: expected {self.longest} bytes at most")

    def start_over(self) -> None:
        """Forget what is here, but for what was waited for: that is asked for first."""
        awaited = self.missing[0]
        self.contents.clear()
        self.missing = list(dict.fromkeys([awaited, *object_ids(self.tree)]))


class _TooLongError(Exception):
    """An answer has more bytes than it may."""


class PromptGrid:
    """A Grid whose ``pull_messages`` returns after a moment with the answers that are whole."""

    def __init__(self, grid: Grid, *, runtime: Runtime | None = None) -> None:
        self._grid = grid
        self._runtime = runtime or Runtime(grid)
        self._arriving: list[_Arriving] = []
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="answer")

    def get_nodes(self) -> Iterable[Any]:
        found: Iterable[Any] = self._grid.get_nodes()
        return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        found: Iterable[str] = self._grid.push_messages(messages)
        return found

    def pull_messages(self, message_ids: Mapping[str, int]) -> Iterator[Message]:
        # Once an answer was announced, Flower knows its message no more, and would say so.
        announced_before = {arriving.announced.metadata.reply_to_message_id for arriving in self._arriving}
        wanted = [message for message in message_ids if message not in announced_before]
        for announced, tree in self._runtime.arrived(wanted) if wanted else ():
            longest = message_ids[announced.metadata.reply_to_message_id]
            self._arriving.append(_Arriving(announced=announced, tree=tree, longest=longest))
        self._fetch_some()
        wait([arriving.fetch for arriving in self._arriving if arriving.fetch], timeout=_A_MOMENT)
        for arriving in list(self._arriving):
            if arriving.fetch is not None and arriving.fetch.done():
                answer, arriving.fetch = arriving.fetch.result(), None
                self._arriving.remove(arriving)
                if answer is None:
                    self._put_off(arriving)
                    continue
                self._pool.submit(self._forget, arriving)
                self._fetch_some()  # the next ones, while this one is read
                yield answer
                del answer

    def _put_off(self, arriving: _Arriving) -> None:
        """Something is still missing: a later look fetches on, after the others.

        Halves of answers are kept as long as they are not much.
        """
        self._arriving.append(arriving)
        if sum(one.size for one in self._arriving if one.fetch is None) > _MOST_HELD:
            arriving.start_over()

    def _fetch_some(self) -> None:
        """Fetch side by side what there is room for."""
        fetched = [arriving for arriving in self._arriving if arriving.fetch is not None]
        room = _MOST_HELD - sum(arriving.longest for arriving in fetched)
        for arriving in self._arriving:
            if arriving.fetch is None:
                if fetched and (len(fetched) >= _AT_ONCE or arriving.longest > room):
                    break
                arriving.fetch = self._pool.submit(self._fetch, arriving)
                fetched.append(arriving)
                room -= arriving.longest

    def close(self) -> None:
        """Fetch nothing more; what is under way is finished, and lasts as long as one request."""
        self._pool.shutdown()

    def _forget(self, arriving: _Arriving) -> None:
        """Let the SuperLink forget an answer that is here: nobody waits for that."""
        try:
            self._runtime.confirm_received(arriving.tree.object_id)
        except Exception as error:
            log.debug("an answer stays at the SuperLink", exc_info=error)

    def _fetch(self, arriving: _Arriving) -> Message | None:
        """Fetch what is there of an answer: the answer if it is whole, None if not yet."""
        try:
            while arriving.missing:
                content = self._runtime.pull_object(arriving.missing[0])
                if content is None:
                    return None
                arriving.take(content)
            arriving.check(inflated_size(arriving.tree, arriving.contents))
            return inflate(arriving.announced, arriving.tree, arriving.contents)
        except (ObjectPullError, _TooLongError) as error:
            return failed_answer(arriving.announced, str(error))
        except Exception as error:
            log.warning("an answer cannot be fetched", exc_info=error)
            return failed_answer(arriving.announced, f"it cannot be fetched: {type(error).__name__}")
