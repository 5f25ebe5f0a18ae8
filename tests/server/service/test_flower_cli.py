"""Flower's commands against a real SuperLink on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.errors import RunError
from protocol.processes.flower_process import Child
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli, read_address, write_connection
from server.service.nodes import NodeList
from server.service.superlink import hidden_endpoint, superlink_program, wait_until
from tests.server.coordinators import fix_superlink_port, make_coordinator, revoke

APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "waits"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "confide"
fab-include = ["waits/*.py"]

[tool.flwr.app.components]
serverapp = "waits.server:app"
clientapp = "waits.client:app"

[tool.flwr.app.config]
text = "as it was"
number = 1
yes = false
"""
SERVER = """
from pathlib import Path
import json, time
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    config = context.run_config
    Path(config["text"]).write_text(json.dumps([config["number"], config["yes"]]))
    time.sleep(60)
"""
CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorFolder]:
    """A coordinator whose SuperLink runs."""
    folder = make_coordinator(tmp_path_factory.mktemp("flower"), "north", "south")
    fix_superlink_port(folder)
    endpoint = hidden_endpoint(folder, movable=True)
    child = Child(superlink_program(folder, endpoint), say=print)
    child.start()
    try:
        pause = threading.Event().wait
        assert wait_until(endpoint.answers, alive=lambda: child.pid is not None, pause=pause), (
            child.last_words
        )
        yield folder
    finally:
        child.stop()


@pytest.fixture(scope="module")
def flower(folder: CoordinatorFolder) -> FlowerCli:
    return FlowerCli(folder.flower_home)


def test_without_a_superlink_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    write_connection(tmp_path, address="127.0.0.1:9", authority=tmp_path / "ca.crt")
    with pytest.raises(RunError, match=r"^flwr supernode list: "):
        FlowerCli(tmp_path).nodes()
    with pytest.raises(RunError, match="start the server first"):
        FlowerCli(tmp_path / "nowhere").nodes()


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    "terminal",
    [
        {},
        {"COLUMNS": "40"},
        {"COLUMNS": "80"},
        {"COLUMNS": "20", "TERMINAL_WIDTH": "20", "LINES": "5"},
        {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "true", "PY_COLORS": "1", "TTY_COMPATIBLE": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"},
    ],
    ids=["none", "40", "80", "narrow", "colourful", "poor"],
)
def test_a_mistake_is_told_in_one_sentence_whatever_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: dict[str, str]
) -> None:
    """Flower answers in JSON, in colour if it may; its parser of arguments draws a box."""
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    write_connection(tmp_path, address="127.0.0.1:9", authority=tmp_path / "none.crt")
    flower = FlowerCli(tmp_path)
    key = tmp_path / "a long name so that no narrow terminal has room for it in one line.pub"
    with pytest.raises(RunError) as caught:
        flower.register(key, name="none")
    assert str(caught.value) == f"the public key file {key} does not exist"
    key.write_text("no key")
    with pytest.raises(RunError) as caught:
        flower.register(key, name="none")
    assert str(caught.value).startswith("flwr supernode register: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError) as caught:
        flower._call("list", "coordinator", "--run-id", "seven")  # one that Flower's own parser refuses
    said = str(caught.value)
    assert said.startswith("flwr list: no JSON, exit code 2, and: ")
    assert said.endswith("Invalid value for '--run-id': 'seven' is not a valid integer.")
    (tmp_path / "none.crt").touch()
    with pytest.raises(RunError) as caught:
        flower.nodes()
    assert str(caught.value) == "flwr supernode list: Empty certificate data"


def test_a_connection_that_was_changed_is_seen(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    (tmp_path / "config.toml").write_text("[superlink]")
    with pytest.raises(RunError, match="delete it and start the server again"):
        read_address(tmp_path)


@pytest.mark.process
def test_what_does_not_exist_is_refused_in_flowers_words(flower: FlowerCli, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"flwr supernode unregister: .*code: "):
        flower.unregister(12345)
    with pytest.raises(RunError, match=r"flwr list: .*code: "):
        flower.find(12345)
    with pytest.raises(RunError, match="does not exist"):
        flower.register(tmp_path / "none.pub", name="none")
    with pytest.raises(RunError, match="flwr run"):
        flower.run(tmp_path)


@pytest.mark.process
def test_sites_come_and_go(folder: CoordinatorFolder, flower: FlowerCli) -> None:
    said: list[str] = []
    nodes = NodeList(folder, flower, say=said.append)
    assert nodes.apply() == []
    assert [(node.status, node.online_since) for node in flower.nodes()] == [("registered", None)] * 2
    revoke(folder, "north")
    assert nodes.apply() == []
    assert sorted(node.status for node in flower.nodes()) == ["registered", "unregistered"]
    assert flower.register(folder.node_key("north"), name="north") is None
    assert [line.split(":")[0] for line in said] == [
        "site north may connect now",
        "site south may connect now",
        "site north is out",
    ]


@pytest.mark.process
def test_a_run_is_started_found_and_stopped(flower: FlowerCli, tmp_path: Path) -> None:
    app, mark = tmp_path / "app", tmp_path / 'a "mark"'
    (app / "waits").mkdir(parents=True)
    (app / "pyproject.toml").write_text(APP)
    (app / "waits" / "__init__.py").touch()
    (app / "waits" / "server.py").write_text(SERVER)
    (app / "waits" / "client.py").write_text(CLIENT)
    run = flower.run(app, {"text": str(mark), "number": 7, "yes": True})
    end = time.monotonic() + 150
    while not mark.exists():  # another process writes it
        found = flower.find(run)
        assert not found.finished, found
        assert time.monotonic() < end
    while not (text := mark.read_text()):
        assert time.monotonic() < end
    assert text == "[7, true]"
    assert flower.find(run).status == "running"
    flower.stop(run)
    assert flower.find(run).status == "finished:stopped"
    with pytest.raises(RunError, match="flwr stop"):
        flower.stop(run)
