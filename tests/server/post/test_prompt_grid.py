"""An answer that is still uploaded waits alone; one that never comes whole says so."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, MessageType

from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_internals import ObjectPullError, deflate, identify_process
from server.post.prompt_grid import PromptGrid
from simulation.grid import InProcessGrid

PATIENCE = 20.0  # seconds; nothing is measured by it


class Superlink:
    """A SuperLink's runtime: answers that are announced, and as many of their objects as are uploaded."""

    def __init__(self) -> None:
        identify_process(run_id=1, node_id=1, task_id=3)
        self.announced: dict[str, tuple[Message, Any]] = {}
        self.objects: dict[str, bytes | None] = {}
        self.asked: list[list[str]] = []
        self.confirmed: list[str] = []
        self.looked = threading.Semaphore(0)

    def announce(self, node: int, content: bytes) -> tuple[str, list[str]]:
        """A node answers: the message that it answers, and its answer's objects, none uploaded."""
        message = Message(wrap(b"asked"), node, MessageType.TRAIN, ttl=60.0)
        message.metadata.__dict__["_message_id"] = f"to {node}"
        answer = Message(wrap(content), reply_to=message)
        tree, objects = deflate(answer)
        self.whole = getattr(self, "whole", {}) | objects
        self.objects |= dict.fromkeys(objects)
        answer.__dict__["_content"] = None
        self.announced[f"to {node}"] = answer, tree
        return f"to {node}", list(objects)

    def upload(self, names: Iterable[str]) -> None:
        self.objects |= {name: self.whole[name] for name in names}

    def arrived(self, message_ids: Iterable[str]) -> list[tuple[Message, Any]]:
        self.asked.append(list(message_ids))
        return [self.announced.pop(name) for name in self.asked[-1] if name in self.announced]

    def pull_object(self, name: str) -> bytes | None:
        self.looked.release()
        if name not in self.objects:
            raise ObjectPullError(name, "lost")
        return self.objects[name]

    def confirm_received(self, message_id: str) -> None:
        self.confirmed.append(message_id)


@pytest.fixture
def superlink() -> Superlink:
    return Superlink()


@pytest.fixture
def grid(superlink: Superlink) -> PromptGrid:
    return PromptGrid(InProcessGrid({}), runtime=superlink)


def look(grid: PromptGrid, names: list[str], longest: int = 1 << 30) -> list[Message]:
    """What is whole by now; no answer may have more than ``longest`` bytes."""
    return list(grid.pull_messages(dict.fromkeys(names, longest)))


def pull(grid: PromptGrid, names: list[str], longest: int = 1 << 30) -> list[Message]:
    """Look until something is whole."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if found := look(grid, names, longest):
            return found
        pause.wait(0.01)
    raise AssertionError("nothing came")


@pytest.mark.parametrize("size", [5, 12_000_000], ids=["short", "in pieces"])
def test_an_answer_comes_whole_and_once(superlink: Superlink, grid: PromptGrid, size: int) -> None:
    name, objects = superlink.announce(7, bytes(size))
    superlink.upload(objects)
    (answer,) = pull(grid, [name])
    assert unwrap(answer.content) == bytes(size)
    assert answer.metadata.reply_to_message_id == name
    assert look(grid, [name]) == []
    grid.close()
    assert superlink.confirmed == objects[-1:]


@pytest.mark.parametrize("size", [5, 12_000_000], ids=["short", "in pieces"])
def test_a_site_that_stops_half_way_holds_up_nobody(
    superlink: Superlink, grid: PromptGrid, size: int
) -> None:
    """What was announced is not asked for again: Flower would say that it knows no such message."""
    slow, parts = superlink.announce(1, size * b"s")
    superlink.upload(parts[1:])
    assert look(grid, [slow, "to 2"]) == []
    quick, objects = superlink.announce(2, b"quick")
    superlink.upload(objects)
    (answer,) = pull(grid, [slow, quick])
    assert unwrap(answer.content) == b"quick"
    superlink.upload(parts)
    (answer,) = pull(grid, [slow])
    assert unwrap(answer.content) == size * b"s"
    assert sum(slow in asked for asked in superlink.asked) == 1


@pytest.mark.parametrize("broken", ["lost", "no message"])
def test_what_never_comes_whole_is_a_failure(superlink: Superlink, grid: PromptGrid, broken: str) -> None:
    name, objects = superlink.announce(3, b"x")
    superlink.upload(objects)
    if broken == "lost":
        del superlink.objects[objects[0]]
    else:
        superlink.objects[objects[0]] = b"no object"
    (answer,) = pull(grid, [name])
    assert answer.has_error()
    assert answer.metadata.reply_to_message_id == name
    assert {"lost": "lost", "no message": "it cannot be fetched"}[broken] in answer.error.reason
