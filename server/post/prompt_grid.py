"""Flower's Grid, without its waits: an answer that a site still uploads holds up nobody else's.

``Grid.pull_messages`` fetches all answers that were announced, one after another, and sleeps for a second
and more where a piece is not there yet. A site that announces an answer and goes away then holds up a round
for the three minutes that Flower gives it.

A short message is sent by one request and fetched by one where it travels in one piece
(``flower_internals.is_short``). A stock SuperNode takes no such message. So whoever answered in one piece
is asked in one, until it connects anew or a message to it fails.
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
    has_come_whole,
    inflate,
    inflated_size,
    is_short,
    object_ids,
    size_in_one_piece,
)

TOO_LONG = "its answer is too long"  # how it is told of an answer that was not fetched for that

_AT_ONCE = 8  # answers that are fetched side by side; each has one request under way
_MOST_HELD = 1 << 27  # bytes that these may have together, but for one that alone has more
_BESIDE = 1 << 16  # bytes of an answer that are Flower's
_MOST_FOUND = 1 << 25  # bytes of answers in one piece that a look may bring at once
_LONGEST_PIECE = 1 << 20  # bytes that an answer in one piece has, if its site keeps to what was agreed
_LAST_SECONDS = 5.0  # for what is under way when a run has ended
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
        self._lives: dict[int, str] = {}  # when each node connected
        self._quick: dict[int, str] = {}  # the life in which a node answered in one piece
        self._sent: dict[str, int] = {}  # the node of each message that was sent in one piece
        self._forgotten: set[Future[None]] = set()  # answers that the SuperLink is told to forget
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="answer")

    def get_nodes(self) -> Iterable[Any]:
        found = list(self._grid.get_nodes())
        self._lives = {node.node_id: node.last_activated_at for node in found}
        return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names: dict[int, str] = {}
        rest: dict[int, Message] = {}
        count = 0
        for place, message in enumerate(messages):
            count += 1
            node = message.metadata.dst_node_id
            if self._takes_one_piece(node) and is_short(message):
                names[place] = name = self._runtime.send(message)
                if name:
                    self._sent[name] = node
            else:
                rest[place] = message
        if rest:
            names |= dict(zip(rest, self._grid.push_messages([*rest.values()]), strict=False))
        return [names.get(place, "") for place in range(count)]

    def _takes_one_piece(self, node: int) -> bool:
        life = self._lives.get(node)
        return life is not None and self._quick.get(node) == life

    def pull_messages(self, message_ids: Mapping[str, int]) -> Iterator[Message]:
        # Once an answer was announced, Flower knows its message no more, and would say so.
        announced_before = {arriving.announced.metadata.reply_to_message_id for arriving in self._arriving}
        wanted = {name: most for name, most in message_ids.items() if name not in announced_before}
        for some in _in_groups(wanted):
            for announced, tree in self._runtime.arrived(some):
                longest = message_ids[announced.metadata.reply_to_message_id]
                self._learn(announced)
                if has_come_whole(announced):
                    if announced.has_error():  # Flower's own have objects
                        self._let_forget(tree.object_id)
                    yield _if_short_enough(announced, longest)
                else:
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
                self._let_forget(arriving.tree.object_id)
                self._fetch_some()  # the next ones, while this one is read
                yield answer
                del answer

    def _learn(self, announced: Message) -> None:
        """Whether the node that an answer comes from may be asked in one piece."""
        node = announced.metadata.src_node_id
        asked = self._sent.pop(announced.metadata.reply_to_message_id, None)
        if announced.has_error():
            self._quick.pop(node if asked is None else asked, None)
        elif has_come_whole(announced) and node in self._lives:
            self._quick[node] = self._lives[node]

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
        """Fetch nothing more; what is under way has a few seconds.

        Flower's client asks a SuperLink that is gone for ever: its threads are left to the process's end.
        """
        wait(self._forgotten, timeout=_LAST_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _let_forget(self, message_id: str) -> None:
        """Let the SuperLink forget an answer that is here: nobody waits for that."""
        told = self._pool.submit(self._forget, message_id)
        self._forgotten.add(told)
        told.add_done_callback(self._forgotten.discard)

    def _forget(self, message_id: str) -> None:
        try:
            self._runtime.confirm_received(message_id)
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


def _in_groups(wanted: Mapping[str, int]) -> Iterator[list[str]]:
    """Messages whose answers may be asked for at once: all of them, unless these may be a great deal."""
    group: list[str] = []
    room = _MOST_FOUND
    for name, longest in wanted.items():
        size = min(longest, _LONGEST_PIECE)
        if group and size > room:
            yield group
            group, room = [], _MOST_FOUND
        group.append(name)
        room -= size
    if group:
        yield group


def _if_short_enough(answer: Message, longest: int) -> Message:
    """An answer that came whole, or in its place that it has more bytes than it may."""
    if size_in_one_piece(answer) > longest + _BESIDE:
        return failed_answer(answer, f"{TOO_LONG}: expected {longest} bytes at most")
    return answer
