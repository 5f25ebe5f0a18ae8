"""A SuperLink as a relay sees it, scripted: what it gives at each look, and what it was answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from flwr.app import Message, MessageType, RecordDict

from protocol.messages.flower import wrap
from protocol.processes.flower_internals import Fleet, deflate, identify_process

PATIENCE = 20.0  # seconds; nothing is measured by it


class Superlink:
    """Give it messages with ``send``; ``answers`` are what came back, in order."""

    def __init__(self) -> None:
        identify_process(run_id=1, node_id=0, task_id=3)
        self.gives: deque[tuple[Message, Any] | Callable[[], Any]] = deque()
        self.objects: dict[str, bytes] = {}
        self.answers: list[Message] = []
        self.changed = threading.Condition()
        self.looks = 0
        self.confirmed = threading.Semaphore(0)
        self.over: BaseException | None = None  # what is raised when a message is confirmed
        self.fails: list[Exception] = []  # what the next answers meet
        self.fleet = _Fleet(self)

    def send(self, content: bytes | RecordDict, *, lacks: int = 0) -> str:
        """A message for the node, of whose objects ``lacks`` are never uploaded: its id."""
        record = wrap(content) if isinstance(content, bytes) else content
        message = Message(record, 2, MessageType.TRAIN, ttl=60.0)
        tree, objects = deflate(message)
        for name in list(objects)[:lacks]:
            del objects[name]
        self.objects |= objects
        message.metadata.__dict__["_message_id"] = tree.object_id  # as Flower does
        message.__dict__["_content"] = None
        self.gives.append((message, tree))
        return str(tree.object_id)

    def send_whole(self, content: bytes | RecordDict) -> str:
        """A message for the node in one piece, of which the SuperLink has no object: its id."""
        name = self.send(content)
        announced, tree = self.gives.pop()  # type: ignore[misc]  # what was just given
        record = wrap(content) if isinstance(content, bytes) else content
        whole = Message(content=record, metadata=announced.metadata)
        self.gives.append((whole, type(tree)(object_id=name)))
        self.objects.clear()
        return name

    def receive(self) -> tuple[Message, Any] | None:
        self.looks += 1
        given = self.gives.popleft() if self.gives else None
        return given() if callable(given) else given

    def pull(self, _run: int, name: str) -> bytes:
        return self.objects[name]

    def confirm(self, _run: int, _message: str) -> None:
        self.confirmed.release()
        if self.over is not None:
            raise self.over

    def take(self, answer: Message) -> None:
        with self.changed:
            if self.fails:
                raise self.fails.pop(0)
            self.answers.append(answer)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[Message]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.answers) >= count, PATIENCE)
            return list(self.answers)


class _Fleet(Fleet):
    """Flower's own way of fetching; answers are taken whole."""

    def __init__(self, superlink: Superlink) -> None:
        super().__init__(
            receive=superlink.receive,
            announce=lambda _message, _tree, _seconds: (set(), ""),
            pull_object=superlink.pull,
            push_object=lambda *_: None,
            confirm_received=superlink.confirm,
        )
        object.__setattr__(self, "superlink", superlink)

    def answer(self, message: Message, *, seconds: float) -> None:
        assert seconds >= 0.0
        self.superlink.take(message)  # type: ignore[attr-defined]
