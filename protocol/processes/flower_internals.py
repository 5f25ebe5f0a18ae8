"""What Confide uses of Flower beyond ``flwr.app``, ``flwr.clientapp`` and ``flwr.serverapp``.

Only these three are documented to last; the rest moves between minor versions. A test keeps every other
import of Flower out, but for ``flower_aggregation.py`` and ``server/service/lean_superlink.py``;
``test_flower_contract.py`` and ``test_one_piece.py`` try what is assumed of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Array, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_tree,
    get_object_type_from_object_content,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from protocol.processes.careful_client import Careful, fetch_until

__all__ = [
    "Fleet",
    "ObjectPullError",
    "Run",
    "RunNotRunningException",
    "Runtime",
    "connect_to_fleet",
    "deflate",
    "failed_answer",
    "failure",
    "has_come_whole",
    "identify_process",
    "inflate",
    "inflated_size",
    "is_short",
    "make_run",
    "object_ids",
    "pull_contents",
    "run_simulation",
    "size_in_one_piece",
]

# Flower's code for an app that raised: what a SuperNode answers with when its ClientApp fails.
_APP_FAILED = 2
# Seconds before an object that its sender still uploads is asked for again: the first time, and at most.
# Flower's own are 1 and 10.
_FIRST_LOOK, _LATER_LOOKS = 0.05, 1.0


def make_run(run_id: int) -> Run:
    """A run with no more than a number, for a Grid that no SuperLink stands behind."""
    return Run.create_empty(run_id=run_id)


def identify_process(*, run_id: int, node_id: int, task_id: int) -> None:
    """Say whose process this is, as Flower does in those it starts: ``Message`` raises before that."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def run_simulation(**arguments: Any) -> None:
    """Flower's simulation engine, imported when it is wanted: it takes seconds."""
    from flwr.simulation import run_simulation as run

    run(**arguments)


def failure(reason: str) -> Error:
    """What a message is answered with when nothing came of it."""
    return Error(_APP_FAILED, reason)


def is_short(message: Message) -> bool:
    """Whether a message may travel in one piece: it is an error, or one record without parts.

    Its content is then in its announcement, and of its objects only its name is known to the SuperLink: no
    object has to be sent, fetched or deleted. Flower itself takes the content out.
    """
    if message.has_error():
        return True
    records = list(message.content.values())
    return len(records) == 1 and isinstance(records[0], ConfigRecord)


def has_come_whole(announced: Message) -> bool:
    """Whether an announced message has its content with it."""
    return announced.has_error() or (announced.has_content() and len(announced.content) > 0)


def size_in_one_piece(message: Message) -> int:
    """How many bytes the content of a message takes that came with it."""
    from flwr.common.serde import recorddict_to_proto

    return 0 if message.has_error() else int(recorddict_to_proto(message.content).ByteSize())


def object_ids(tree: Any) -> list[str]:
    """The objects to fetch of a message, by their SHA-256 as hex.

    All of them, but for a message of one record, as every short one of Confide's is: what the other two say
    was announced with it, and each object is a request.
    """
    record = _only_record(tree)
    return [node.object_id for node in iterate_object_tree(tree)] if record is None else [record]


def _only_record(tree: Any) -> str | None:
    """The record of a message that has no more than one, which has no parts."""
    for _ in range(2):  # the message's dict of records, and the one in it
        if len(tree.children) != 1:
            return None
        tree = tree.children[0]
    return None if tree.children else str(tree.object_id)


def pull_contents(ids: list[str], pull: Callable[[str], bytes], *, seconds: float) -> dict[str, bytes]:
    """Objects' contents, of which some are still being uploaded: they are asked for until they are there.

    Raises ObjectPullError for one that is not there after ``seconds``, and what ``pull`` raises.
    """
    found: dict[str, bytes] = pull_objects(
        ids,
        pull,
        max_time=seconds,
        max_tries_per_object=None,
        initial_backoff=_FIRST_LOOK,
        backoff_cap=_LATER_LOOKS,
    )
    return found


def inflated_size(tree: Any, contents: Mapping[str, bytes]) -> int:
    """How many bytes the content of a message will have, by the contents of its objects.

    That may be more than these have: an array says of which parts it is made, and may name one many times.
    Raises whatever Flower raises for contents that are broken.
    """
    record = _only_record(tree)
    if record is not None:
        return len(contents[record])
    size = 0
    for content in contents.values():
        if get_object_type_from_object_content(content) == Array.__name__:
            parts = get_object_children_ids_from_object_content(content)
            places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            size += sum(len(contents[parts[place]]) for place in places)
    return size


def inflate(announced: Message, tree: Any, contents: dict[str, bytes]) -> Message:
    """A message that was announced, with the content that its objects hold, which leave the dict.

    Raises TypeError if they make something else, and whatever Flower raises for contents that are broken.
    """
    record = _only_record(tree)
    if record is not None:
        content = RecordDict({"": ConfigRecord.inflate(contents.pop(record))})
        return Message(content=content, metadata=announced.metadata)
    message = inflate_object_from_contents(tree.object_id, contents)
    if not isinstance(message, Message):
        raise TypeError(f"expected a message, got {type(message).__name__}")
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def deflate(message: Message) -> tuple[Any, dict[str, bytes]]:
    """The tree of a message's objects, and their contents: parts before what they are parts of."""
    with no_object_id_recompute():
        objects = get_all_nested_objects(message)
        return get_object_tree(message), {name: part.deflate() for name, part in objects.items()}


def _name_alone(tree: Any) -> Any:
    """The tree of a message whose objects stay where they are."""
    return type(tree)(object_id=tree.object_id)


def _without_what_is_long(message: Message) -> Message:
    from flwr.app.message import remove_content_from_message

    return message if is_short(message) else remove_content_from_message(message)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A SuperNode's connection to the SuperLink, by Flower's own functions.

    Each of them tries again while the SuperLink is away, and raises RunNotRunningException once the run
    that a message belongs to is over.
    """

    receive: Callable[[], tuple[Message, Any] | None]
    announce: Callable[[Message, Any, float], tuple[set[str], str]]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm_received: Callable[[int, str], None]

    def fetch(
        self,
        message: Message,
        tree: Any,
        *,
        seconds: float,
        take: Callable[[int], None],
        pulling: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Message:
        """The whole of a message that ``receive`` gave; ``take`` hears of each object's bytes.

        Objects are fetched side by side, each on a thread of its own within ``pulling()``. When one fails
        this raises, and the others end with what they next receive.
        """
        if has_come_whole(message):
            take(size_in_one_piece(message))
            return message
        run, given_up = message.metadata.run_id, threading.Event()

        def pull(name: str) -> bytes:
            with pulling():
                fetch_until(given_up)
                content = self.pull_object(run, name)
                take(len(content))
                return content

        try:
            return inflate(message, tree, pull_contents(object_ids(tree), pull, seconds=seconds))
        finally:
            given_up.set()

    def answer(self, message: Message, *, seconds: float) -> None:
        """Send a message that answers another, of which ``seconds`` were spent on the answer."""
        run = message.metadata.run_id
        tree, objects = deflate(message)
        message.metadata.__dict__["_message_id"] = tree.object_id
        # An error is read in its announcement by ours, and by whoever else asked in what is pushed.
        if is_short(message) and not message.has_error():
            self.announce(message, _name_alone(tree), seconds)
            return
        wanted, session = self.announce(message, tree, seconds)
        push_object_contents_from_iterable(
            [(name, content) for name, content in objects.items() if name in wanted],
            lambda name, content: self.push_object(run, session, name, content),
        )


@contextmanager
def connect_to_fleet(address: str, *, authority: Path, key: EllipticCurvePrivateKey) -> Iterator[Fleet]:
    """Within this block the SuperLink at ``host:port`` knows this process as the node with that key.

    ``authority`` is the certificate, PEM, that the SuperLink's was signed with. Heartbeats go out until the
    end of the block. Raises SystemExit, with the reason in the log, if the SuperLink turns the node away.
    """
    from flwr.supernode import fleet_http_connection as connection
    from flwr.supernode.fleet_http_client import FleetHttpClient

    # Flower takes no client from outside, and takes the content out of whatever it announces.
    connection.FleetHttpClient = type("CarefulClient", (Careful, FleetHttpClient), {})
    connection.remove_content_from_message = _without_what_is_long
    with connection.http_request_response(
        address, False, str(authority), authentication_keys=(key, key.public_key())
    ) as (_node, receive, send, _get_run, _get_fab, pull_object, push_object, confirm):
        yield Fleet(
            receive=receive,
            announce=send,
            pull_object=pull_object,
            push_object=push_object,
            confirm_received=confirm,
        )


class Runtime:
    """What a ServerApp's Grid does in one go, step by step: which answers there are, and what they hold."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid

    def send(self, message: Message) -> str:
        """Send a short message in one piece: its identifier, empty if it was refused.

        Only a relay of Confide's understands it. Its name is an object that is never uploaded. Whoever asks
        for that after three minutes has the SuperLink drop all that was sent in the same request: so a
        node's message shares none with another's.
        """
        from flwr.common.serde import message_to_proto
        from flwr.proto.message_pb2 import ObjectTree
        from flwr.proto.runtime_pb2 import PushAppMessagesRequest

        name = message.metadata.__dict__["_message_id"] = message.object_id
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(message)], message_object_trees=[ObjectTree(object_id=name)]
        )
        (taken,) = self._grid._runtime_client.PushMessages(request).message_ids
        return str(taken)

    def arrived(self, message_ids: Iterable[str]) -> list[tuple[Message, Any]]:
        """Answers that were announced, each once, and the trees of their objects.

        Those that did not come whole are without their content.
        """
        from flwr.common.serde import message_from_proto
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest

        found = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        return [
            (message_from_proto(message), tree)
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True)
        ]

    def pull_object(self, name: str) -> bytes | None:
        """An object's content, None while it is being uploaded. Raises ObjectPullError if it is lost."""
        from flwr.proto.message_pb2 import PullObjectRequest

        request = PullObjectRequest(node=self._grid.node, run_id=self._grid.run.run_id, object_id=name)
        found = self._grid._runtime_client.PullObject(request)
        if not found.object_found:
            raise ObjectPullError(name, "its sender did not upload it in time")
        return bytes(found.object_content) if found.object_available else None

    def confirm_received(self, message_id: str) -> None:
        """Let the SuperLink forget a message's objects."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        node, run = self._grid.node, self._grid.run.run_id
        request = ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=message_id)
        self._grid._runtime_client.ConfirmMessageReceived(request)


def failed_answer(announced: Message, reason: str) -> Message:
    """An answer that was announced and never came, as one that says so."""
    return Message(error=failure(reason), metadata=announced.metadata)
