"""What Confide assumes about Flower. A newer Flower that breaks it fails here first, and says where."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import pytest
from flwr.app import DEFAULT_TTL, Error, Message, MessageType
from flwr.serverapp import Grid

from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_internals import Run, identify_process, make_run, run_simulation
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


def test_variables_that_are_set_are_read(tmp_path: Path) -> None:
    import flwr

    source = "\n".join(path.read_text() for path in Path(flwr.__file__).parent.rglob("*.py"))
    names = {name for name in flower_environment(tmp_path) if name.startswith("FLWR_")}
    assert len(names) >= 5
    assert {name for name in names if f'"{name}"' not in source} == set()
