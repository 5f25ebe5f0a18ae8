"""What Confide assumes of Flower where a short message travels with its announcement."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, MessageType

from protocol.messages.flower import unwrap, wrap
from protocol.processes import flower_internals
from protocol.processes.flower_internals import (
    Fleet,
    Runtime,
    failure,
    has_come_whole,
    identify_process,
    is_short,
)


class State:
    """A SuperLink's own state, with a run and a node in it, and the two sides that ask it."""

    def __init__(self, database: str) -> None:
        from flwr.proto.node_pb2 import Node
        from flwr.supercore.constant import TaskType
        from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
        from flwr.superlink.servicer.runtime import runtime_handlers

        _, factory = get_objectstore_linkstate_factories(database, get_federation_manager())
        self.state = factory.state()
        self.run = self.state.create_run(
            "a/b", "1", "h", {}, "@none/default", None, "someone", TaskType.SERVER_APP
        )
        self.task = self.state.get_run_info(run_ids=[self.run])[0].primary_task_id
        self.state.claim_task(self.task)
        self.state.activate_task(self.task)
        number = self.state.create_node("someone", "someone", b"key", 0)
        self.state.activate_node(number, 30)
        self.node = Node(node_id=number)
        task = SimpleNamespace(run_id=self.run)
        client = SimpleNamespace(
            PushMessages=lambda asked: runtime_handlers.push_messages(asked, self.state, task),
            PullMessages=lambda asked: runtime_handlers.pull_messages(asked, self.state, task),
        )
        self.runtime = Runtime(SimpleNamespace(_runtime_client=client))

    def receive(self) -> tuple[Message, Any] | None:
        from flwr.common.serde import message_from_proto
        from flwr.proto.fleet_pb2 import PullMessagesRequest
        from flwr.superlink.servicer.fleet import fleet_handlers

        asked = PullMessagesRequest(node=self.node)
        found = fleet_handlers.pull_messages(asked, self.state, self.state.object_store)
        return (
            (message_from_proto(found.messages_list[0]), found.message_object_trees[0])
            if found.messages_list
            else None
        )

    def announce(self, message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        """As Flower's own ``send``, with what stands for the function that takes contents out."""
        from flwr.common.serde import message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.superlink.servicer.fleet import fleet_handlers

        asked = PushMessagesRequest(
            node=self.node,
            messages_list=[message_to_proto(flower_internals._without_what_is_long(message))],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        found = fleet_handlers.push_messages(asked, self.state)
        return set(found.objects_to_push), found.session_id


def refuse(*_: object) -> Any:
    raise AssertionError("a message in one piece needs no object")


@pytest.mark.parametrize("database", [":memory:", ":flwr-in-memory:"], ids=["SQLite", "in memory"])
def test_a_short_message_goes_through_a_superlink_in_one_piece(database: str) -> None:
    """There and back in one request each, with no object sent or fetched; and nothing of it stays."""
    superlink = State(database)
    identify_process(run_id=superlink.run, node_id=1, task_id=superlink.task)
    asked = Message(wrap(b"there"), superlink.node.node_id, MessageType.TRAIN, ttl=60.0)
    name = superlink.runtime.send(asked)
    fleet = Fleet(
        receive=superlink.receive,
        announce=superlink.announce,
        pull_object=refuse,
        push_object=refuse,
        confirm_received=refuse,
    )
    found = fleet.receive()
    assert found is not None
    taken: list[int] = []
    message = fleet.fetch(*found, seconds=1.0, take=taken.append)
    assert unwrap(message.content) == b"there"
    assert 5 <= sum(taken) < 100
    assert fleet.receive() is None
    identify_process(run_id=superlink.run, node_id=superlink.node.node_id, task_id=superlink.task)
    fleet.answer(Message(wrap(b"back"), reply_to=message), seconds=0.5)
    ((answer, _),) = superlink.runtime.arrived([name])
    assert has_come_whole(answer)
    assert answer.metadata.reply_to_message_id == name
    assert unwrap(answer.content) == b"back"
    superlink.state.cleanup_run(superlink.run)
    assert len(superlink.state.object_store) == 0


def test_an_error_is_read_in_its_announcement_and_pushed_for_others() -> None:
    """Whoever asked may be a program of Flower's alone, which reads objects."""
    superlink = State(":memory:")
    identify_process(run_id=superlink.run, node_id=1, task_id=superlink.task)
    name = superlink.runtime.send(
        Message(wrap(b"there"), superlink.node.node_id, MessageType.TRAIN, ttl=60.0)
    )
    pushed: list[str] = []
    fleet = Fleet(
        receive=superlink.receive,
        announce=superlink.announce,
        pull_object=refuse,
        push_object=lambda _run, _session, object_id, _content: pushed.append(object_id),
        confirm_received=refuse,
    )
    found = fleet.receive()
    assert found is not None
    message = fleet.fetch(*found, seconds=1.0, take=lambda _count: None)
    identify_process(run_id=superlink.run, node_id=superlink.node.node_id, task_id=superlink.task)
    fleet.answer(Message(failure("why"), reply_to=message), seconds=0.5)
    ((answer, tree),) = superlink.runtime.arrived([name])
    assert has_come_whole(answer)
    assert answer.error.reason == "why"
    assert pushed == [tree.object_id]


def test_a_long_message_is_announced_without_its_content() -> None:
    """And it is Flower's connection that takes the content out, by the name that it is replaced under."""
    from flwr.supernode import fleet_http_connection as connection

    assert callable(connection.remove_content_from_message)
    assert "remove_content_from_message(message)" in inspect.getsource(connection.http_request_response)
    identify_process(run_id=5, node_id=6, task_id=1)
    long = Message(wrap(bytes(2 << 20)), 9, MessageType.TRAIN, ttl=60.0)
    assert not is_short(long)
    assert not has_come_whole(flower_internals._without_what_is_long(long))
    short = Message(wrap(b"x"), 9, MessageType.TRAIN, ttl=60.0)
    assert flower_internals._without_what_is_long(short) is short
