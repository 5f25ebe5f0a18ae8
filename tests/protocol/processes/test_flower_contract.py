"""What Confide assumes about Flower. A newer Flower that breaks it fails here first, and says where."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
from flwr.app import DEFAULT_TTL, Error, Message, MessageType
from flwr.serverapp import Grid

from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_aggregation import closest_mean, select_krum, trimmed_mean
from protocol.processes.flower_internals import (
    Run,
    RunNotRunningException,
    deflate,
    failure,
    identify_process,
    inflate,
    make_run,
    object_ids,
    pull_contents,
    run_simulation,
)
from protocol.processes.flower_process import flower_environment, flower_program

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def options(file: str) -> set[str]:
    """The options that a module of ours gives to one of Flower's programs."""
    return set(re.findall(r'"(--[a-z-]+)"', (ROOT / file).read_text()))


def help_of(home: Path, *words: str) -> str:
    command = [flower_program(words[0]), *words[1:], "--help"]
    environment = flower_environment(home)
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_a_grid_is_what_the_in_process_one_implements() -> None:
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }
    assert parameters(Grid.create_message)[1:] == [
        "content",
        "message_type",
        "dst_node_id",
        "group_id",
        "ttl",
    ]
    assert parameters(Grid.push_messages)[1:] == ["messages"]
    assert parameters(Grid.pull_messages)[1:] == ["message_ids"]
    assert parameters(Grid.send_and_receive)[1:] == ["messages", "timeout"]
    assert DEFAULT_TTL > 0


def test_a_listed_node_has_its_key_and_when_it_came() -> None:
    node = Grid.get_nodes.__annotations__["return"].__args__[0]
    assert {"node_id", "public_key", "last_activated_at"} <= set(node.DESCRIPTOR.fields_by_name)


def test_a_run_of_ones_own_has_its_number() -> None:
    run = make_run(7)
    assert isinstance(run, Run)
    assert run.run_id == 7


def test_a_message_is_stamped_and_answered() -> None:
    identify_process(run_id=5, node_id=6, task_id=1)
    message = Message(wrap(b"there"), 9, MessageType.TRAIN, ttl=60.0, group_id="3")
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (
        5,
        6,
        9,
    )
    answer = Message(wrap(b"back"), reply_to=message)
    assert answer.metadata.reply_to_message_id == message.metadata.message_id
    assert (answer.has_content(), answer.has_error(), unwrap(answer.content)) == (True, False, b"back")
    failed = Message(Error(0, "why"), reply_to=message)
    assert (failed.has_content(), failed.has_error(), failed.error.reason) == (False, True, "why")


def test_bytes_survive_the_pieces_that_flower_sends_arrays_in() -> None:
    """nginx lets 8 MB through in one request: a piece and what surrounds it must be smaller."""
    array = wrap(bytes(12_000_000)).array_records["confide"]["confide"]
    sizes = [len(piece.data) for _, piece in array.slice_array()]
    assert sum(sizes) == 12_000_000
    assert max(sizes) < 7_000_000


def test_the_engine_takes_what_it_is_given() -> None:
    from flwr.simulation import run_simulation as engine

    assert {"server_app", "client_app", "num_supernodes", "backend_config"} <= set(parameters(engine))
    assert callable(run_simulation)


def test_a_nodes_connection_is_what_the_relay_takes_it_for() -> None:
    """Eight functions, in this order; the relay leaves out those that fetch a run and its app."""
    from flwr.supernode.fleet_http_connection import http_request_response

    assert parameters(http_request_response) == [
        "server_address",
        "insecure",
        "root_certificates",
        "authentication_keys",
        "max_retries",
        "max_wait_time",
    ]
    given = ast.parse(textwrap.dedent(inspect.getsource(http_request_response)))
    (given,) = [node.value for node in ast.walk(given) if isinstance(node, ast.Yield)]
    assert [ast.unparse(part) for part in given.elts] == [
        "node.node_id",
        "receive",
        "send",
        "get_run",
        "get_fab",
        "pull_object",
        "push_object",
        "confirm_message_received",
    ]


def test_a_nodes_client_is_one_that_can_be_made_careful() -> None:
    """It is named where the connection is made, keeps httpx's client, and has its heartbeats retried."""
    import httpx
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
    from flwr.supercore.retry.http_retry import make_simple_http_retry_invoker
    from flwr.supernode import fleet_http_connection as connection
    from flwr.supernode.fleet_http_client import FleetHttpClient

    assert "FleetHttpClient" in inspect.unwrap(connection.http_request_response).__code__.co_names
    with FleetHttpClient("https://localhost:1") as client:
        assert isinstance(client._client, httpx.Client)
        assert client._client.follow_redirects  # where it no longer is, less is to be made careful
        assert {"path", "request", "response_type"} <= set(parameters(client._unary_unary))
        assert parameters(client.SendNodeHeartbeat) == ["request"]
    assert SendNodeHeartbeatResponse.FromString(b"\x08\x01").success
    assert SendNodeHeartbeatRequest().DESCRIPTOR.name == "SendNodeHeartbeatRequest"
    # What is raised for an answer that is of no use is not asked for again; a heartbeat is.
    retried = make_simple_http_retry_invoker().recoverable_exceptions
    assert not any(issubclass(httpx.RequestError, kind) for kind in retried)
    assert issubclass(httpx.RemoteProtocolError, httpx.TransportError)


def test_a_servers_grid_has_what_answers_are_fetched_with() -> None:
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PullObjectResponse
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
    from flwr.superlink.grid.http_grid import HttpGrid

    grid = HttpGrid(token="none")  # noqa: S106  # nobody is asked
    client = HttpGrid._runtime_client.fget(grid)  # it connects at the first request
    assert all(
        callable(getattr(client, name)) for name in ("PullMessages", "PullObject", "ConfirmMessageReceived")
    )
    grid.close()
    for message, names in (
        (PullAppMessagesRequest, {"message_ids"}),
        (PullAppMessagesResponse, {"messages_list", "message_object_trees"}),
        (PullObjectRequest, {"node", "run_id", "object_id"}),
        (PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (ConfirmMessageReceivedRequest, {"node", "run_id", "message_object_id"}),
    ):
        assert names <= set(message.DESCRIPTOR.fields_by_name)
    assert grid.node.DESCRIPTOR.name == "Node"


@pytest.mark.parametrize("size", [0, 1 << 20, 12_000_000], ids=["nothing", "one record", "in pieces"])
def test_a_message_is_its_objects(size: int) -> None:
    """Of a message of one record, that record is enough; of another, all are."""
    identify_process(run_id=5, node_id=6, task_id=1)
    message = Message(wrap(bytes(size)), 9, MessageType.TRAIN, ttl=60.0)
    tree, objects = deflate(message)
    assert tree.object_id == list(objects)[-1] == message.object_id
    names = object_ids(tree)
    assert (len(names), set(names) <= set(objects)) == (1 if size <= 1 << 20 else len(objects), True)
    contents = pull_contents(names, objects.__getitem__, seconds=1.0)
    assert unwrap(inflate(message, tree, contents).content) == bytes(size)


def test_a_failure_has_the_code_of_an_app_that_failed() -> None:
    from flwr.common.constant import ErrorCode

    assert failure("why").code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert not issubclass(RunNotRunningException, Exception)  # who catches errors must name it


@pytest.mark.parametrize(
    ("program", "file"),
    [
        ("flower-superlink", "server/service/superlink.py"),
        ("flower-supernode", "client/relay/supernode.py"),
    ],
)
def test_programs_know_their_options(tmp_path: Path, program: str, file: str) -> None:
    given = options(file)
    assert given
    assert given <= set(re.findall(r"--[a-z-]+", help_of(tmp_path, program)))


@pytest.mark.process(but=3)
@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("supernode", "list"), set()),
        (("supernode", "register"), {"--name"}),
        (("supernode", "unregister"), set()),
        (("run",), {"--run-config"}),
        (("list",), {"--run-id"}),
        (("stop",), set()),
    ],
)
def test_commands_answer_in_json(tmp_path: Path, words: tuple[str, ...], given: set[str]) -> None:
    known = set(re.findall(r"--[a-z-]+", help_of(tmp_path, "flwr", *words)))
    assert given | {"--format"} <= known


def test_krum_keeps_those_with_the_nearest_neighbours() -> None:
    """Of five points on a line, with one malicious, each is judged by its two nearest others."""
    points = [np.array([number, 0.0]) for number in (0.0, 1.0, 1.5, 4.0, 100.0)]
    scores = [1.0 + 2.25, 1.0 + 0.25, 0.25 + 2.25, 6.25 + 9.0, 96.0**2 + 98.5**2]
    best = [int(number) for number in np.argsort(scores)]
    assert best[0] == 1
    for count in (1, 4):
        assert select_krum(points, malicious=1, count=count) == best[:count]


def test_a_trimmed_mean_rounds_what_it_leaves_out_down() -> None:
    vectors = np.array([[0.0], [1.0], [2.0], [9.0], [100.0]], np.float32)
    assert trimmed_mean(vectors, share=1.25 / 5).tolist() == [4.0]
    assert trimmed_mean(vectors, share=2.25 / 5).tolist() == [2.0]
    with pytest.raises(ValueError, match="fraction"):
        trimmed_mean(vectors, share=0.5)


def test_the_mean_next_to_a_vector_is_of_each_number_for_itself() -> None:
    vectors = np.array([[0.0, 9.0], [1.0, 8.0], [5.0, 1.0]], np.float32)
    to = np.array([0.4, 8.6], np.float32)
    assert closest_mean(vectors, to=to, count=2).tolist() == [0.5, 8.5]


def test_variables_that_are_set_are_read(tmp_path: Path) -> None:
    import flwr

    source = "\n".join(path.read_text() for path in Path(flwr.__file__).parent.rglob("*.py"))
    names = {name for name in flower_environment(tmp_path) if name.startswith("FLWR_")}
    assert len(names) >= 5
    assert {name for name in names if f'"{name}"' not in source} == set()
