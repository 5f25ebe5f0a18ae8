"""An answer that is still uploaded waits alone; one that never comes whole says so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message, MessageType

from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_internals import ObjectPullError, deflate, identify_process
from server.post import prompt_grid
from server.post.prompt_grid import TOO_LONG, PromptGrid
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
        self.sent: list[Message] = []

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

    def answer_whole(self, node: int, content: bytes | Error) -> str:
        """A node answers in one piece: the message that it answers."""
        name, _ = self.announce(node, b"")
        announced, tree = self.announced[name]
        fields = {"error": content} if isinstance(content, Error) else {"content": wrap(content)}
        whole = Message(metadata=announced.metadata, **fields)
        self.announced[name] = whole, type(tree)(object_id=tree.object_id)
        return name

    def send(self, message: Message) -> str:
        self.sent.append(message)
        return f"to {message.metadata.dst_node_id}"

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


class Nodes(InProcessGrid):
    """Nodes 1 to 9, connected since ``life``; what is pushed in pieces is kept."""

    def __init__(self) -> None:
        super().__init__({})
        self.life = "monday"
        self.pushed: list[Message] = []

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=node, last_activated_at=self.life) for node in range(1, 10)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        some = list(messages)
        self.pushed += some
        return [f"to {message.metadata.dst_node_id}" for message in some]


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def quick(superlink: Superlink, nodes: Nodes) -> PromptGrid:
    """A Grid of these nodes, of which the first three have answered in one piece."""
    found = PromptGrid(nodes, runtime=superlink)
    found.get_nodes()
    answered = [superlink.answer_whole(node, b"first") for node in (1, 2, 3)]
    assert [unwrap(answer.content) for answer in look(found, answered)] == [b"first"] * 3
    return found


def ask(node: int, size: int = 5) -> Message:
    return Message(wrap(bytes(size)), node, MessageType.TRAIN, ttl=60.0)


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


@pytest.mark.parametrize("size", [70_000, 12_000_000], ids=["short", "in pieces"])
def test_an_answer_that_is_too_long_is_not_fetched(
    superlink: Superlink, grid: PromptGrid, size: int
) -> None:
    """Of pieces of 5 MiB only those are fetched that it may have, and the one that is too much."""
    name, objects = superlink.announce(4, os.urandom(size))
    superlink.upload(objects)
    (answer,) = pull(grid, [name], longest=1000)
    assert answer.has_error()
    assert answer.error.reason == f"{TOO_LONG}: expected 1000 bytes at most"
    assert answer.metadata.reply_to_message_id == name
    fetched = 0
    while superlink.looked.acquire(blocking=False):
        fetched += 1
    assert fetched < max(2, len(objects))
    assert look(grid, [name]) == []


def test_an_answer_may_have_as_many_bytes_as_it_needs(superlink: Superlink, grid: PromptGrid) -> None:
    content = os.urandom(12_000_000)
    name, objects = superlink.announce(5, content)
    superlink.upload(objects)
    (answer,) = pull(grid, [name], longest=len(content))
    assert unwrap(answer.content) == content


def test_pieces_that_occur_many_times_count_each_time(superlink: Superlink, grid: PromptGrid) -> None:
    """One piece of 5 MiB, named often, would be as many gigabytes as its sender likes."""
    name, objects = superlink.announce(6, bytes(12 * (5 << 20)))
    superlink.upload(objects)
    assert sum(len(superlink.objects[one]) for one in objects) < 6 << 20
    (answer,) = pull(grid, [name], longest=6 << 20)
    assert answer.has_error()
    assert answer.error.reason.startswith(TOO_LONG)


def test_what_is_fetched_at_once_is_bounded(
    superlink: Superlink, grid: PromptGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of a megabyte each, and room for two: the third waits until one is taken."""
    monkeypatch.setattr(prompt_grid, "_MOST_HELD", 2 << 20)
    names = []
    for node in range(1, 7):
        name, objects = superlink.announce(node, os.urandom(1 << 20))
        superlink.upload(objects)
        names.append(name)
    seen: list[int] = []
    taken = 0
    while taken < 6:
        for answer in grid.pull_messages(dict.fromkeys(names, 1 << 20)):
            held = [one for one in grid._arriving if one.fetch is not None]
            seen.append(len(held))
            assert len(unwrap(answer.content)) == 1 << 20
            taken += 1
    assert max(seen) <= 2
    assert grid._arriving == []


def test_halves_of_answers_keep_nobody_out(
    superlink: Superlink, grid: PromptGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More sites stop half way than there is room for: what they sent is forgotten, and fetched again."""
    monkeypatch.setattr(prompt_grid, "_MOST_HELD", 11_000_000)
    contents = {node: os.urandom(11_000_000) for node in range(1, 5)}
    announced = {node: superlink.announce(node, content) for node, content in contents.items()}
    names = [name for name, _ in announced.values()]
    for _, objects in announced.values():
        superlink.upload(objects[1:])
    quick, objects = superlink.announce(9, b"quick")
    superlink.upload(objects)
    (answer,) = pull(grid, [*names, quick], longest=11_000_000)
    assert unwrap(answer.content) == b"quick"
    for _ in range(5):
        assert look(grid, names, longest=11_000_000) == []
        assert sum(one.size for one in grid._arriving if one.fetch is None) <= 11_000_000
    for _, objects in announced.values():
        superlink.upload(objects)
    found = {}
    while len(found) < 4:
        for answer in pull(grid, names, longest=11_000_000):
            found[answer.metadata.src_node_id] = unwrap(answer.content)
    assert found == contents


def test_an_answer_in_one_piece_needs_nothing_more(superlink: Superlink, quick: PromptGrid) -> None:
    name = superlink.answer_whole(4, b"all of it")
    (answer,) = look(quick, [name])
    assert unwrap(answer.content) == b"all of it"
    assert answer.metadata.reply_to_message_id == name
    assert look(quick, [name]) == []
    quick.close()
    assert not superlink.looked.acquire(blocking=False)
    assert superlink.confirmed == []


def test_an_answer_in_one_piece_that_is_too_long_is_left_out(
    superlink: Superlink, quick: PromptGrid
) -> None:
    name = superlink.answer_whole(4, bytes(70_000))
    (answer,) = look(quick, [name], longest=1000)
    assert answer.error.reason == f"{TOO_LONG}: expected 1000 bytes at most"
    assert answer.metadata.reply_to_message_id == name


def test_who_answered_in_one_piece_is_asked_in_one(
    superlink: Superlink, nodes: Nodes, quick: PromptGrid
) -> None:
    """What is long, and what is for others, goes in pieces."""
    messages = [ask(1), ask(7), ask(2, 12_000_000), ask(3)]
    assert list(quick.push_messages(messages)) == ["to 1", "to 7", "to 2", "to 3"]
    assert superlink.sent == [messages[0], messages[3]]
    assert nodes.pushed == [messages[1], messages[2]]


def test_who_connected_anew_is_asked_in_pieces(
    superlink: Superlink, nodes: Nodes, quick: PromptGrid
) -> None:
    """It may be a SuperNode of Flower's by now."""
    nodes.life = "tuesday"
    quick.get_nodes()
    assert list(quick.push_messages([ask(1)])) == ["to 1"]
    assert (superlink.sent, len(nodes.pushed)) == ([], 1)


@pytest.mark.parametrize("told_by", [1, 0], ids=["the node", "the SuperLink"])
def test_whose_message_failed_is_asked_in_pieces(
    superlink: Superlink, nodes: Nodes, quick: PromptGrid, told_by: int
) -> None:
    (name,) = quick.push_messages([ask(1)])
    assert len(superlink.sent) == 1
    superlink.answer_whole(1, Error(0, "no such object"))
    failed, tree = superlink.announced[name]
    failed.metadata.__dict__["_src_node_id"] = told_by
    (answer,) = look(quick, [name])
    assert answer.error.reason == "no such object"
    quick.push_messages([ask(1), ask(2)])
    assert [message.metadata.dst_node_id for message in nodes.pushed] == [1]
    quick.close()
    assert superlink.confirmed == [tree.object_id]


def test_a_look_brings_no_more_than_there_is_room_for(
    superlink: Superlink, quick: PromptGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_grid, "_MOST_FOUND", 2500)
    names = [superlink.answer_whole(node, bytes(1000)) for node in range(1, 10)]
    superlink.asked.clear()
    assert len(look(quick, names, longest=1000)) == 9
    assert [len(asked) for asked in superlink.asked] == [2, 2, 2, 2, 1]


def test_a_superlink_that_is_gone_keeps_no_run_from_ending(
    superlink: Superlink, grid: PromptGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's client asks it for ever."""
    monkeypatch.setattr(prompt_grid, "_LAST_SECONDS", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(superlink, "confirm_received", lambda _name: ended.wait(PATIENCE))
    name, objects = superlink.announce(7, b"x")
    superlink.upload(objects)
    pull(grid, [name])
    closing = threading.Thread(target=grid.close)
    closing.start()
    closing.join(PATIENCE / 2)
    left = closing.is_alive()
    ended.set()
    closing.join()
    assert not left
