"""Stock Flower beside a federation: its own SuperLink, SuperNodes and intervals, and a plain app."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from protocol.processes.flower_process import flower_environment, flower_program
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli, write_connection
from server.service.superlink import open_endpoint
from tests.federation.local import SITES, LocalFederation

_SERVER = '''
import time
from pathlib import Path

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    """One plain message to each site, again and again."""
    place, stamps = Path(context.run_config["place"]), []
    while len(grid.get_node_ids()) < 3:
        time.sleep(0.5)
    for _ in range(context.run_config["messages"]):
        messages = [Message(RecordDict(), node, MessageType.TRAIN) for node in grid.get_node_ids()]
        began = time.time()
        answers = list(grid.send_and_receive(messages, timeout=120))
        wrong = len(answers) != 3 or any(answer.has_error() for answer in answers)
        stamps.append("nan" if wrong else f"{time.time() - began:.2f}")
    (place / "stamps.partial").write_text(" ".join(stamps))
    (place / "stamps.partial").rename(place / "stamps")
'''
_CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
"""
_PROJECT = """[project]
name = "stock"
version = "1.0.0"
description = ""
license = "Apache-2.0"
[tool.flwr.app]
publisher = "confide"
fab-include = ["stock/*.py"]
[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"
[tool.flwr.app.config]
place = ""
messages = 0
"""
_PATIENCE = 60.0  # seconds for a message


def stock_seconds(federation: LocalFederation, *, rounds: int) -> list[float]:
    """Seconds from three plain messages to the last answer, again and again; the federation has ended."""
    folder = CoordinatorFolder.open(federation.coordinator)
    place = federation.folder / "stock"
    with ExitStack() as stack:
        home = place / "flower"
        endpoint = open_endpoint(folder)
        write_connection(home, address=endpoint.address, authority=endpoint.authority)
        words = (
            *("--host", endpoint.host, "--port", str(endpoint.port), "--enable-supernode-auth"),
            *("--ssl-ca-certfile", endpoint.authority, "--ssl-certfile", endpoint.certificate),
            *("--ssl-keyfile", endpoint.key, "--database", place / "superlink.db"),
        )
        _start(stack, "flower-superlink", home, words)
        end = time.monotonic() + _PATIENCE
        while not endpoint.answers():
            if time.monotonic() > end:
                raise RuntimeError("the stock SuperLink did not start")
            time.sleep(0.2)
        cli = FlowerCli(home)
        for number, site in enumerate(SITES):
            cli.register(federation.coordinator / "nodes" / f"{site}.pub", name=site)
            relay = federation.home(site) / "relay"
            words = (
                *("--superlink", endpoint.address, "--root-certificates", endpoint.authority),
                *("--auth-supernode-private-key", relay / "node.key", "--host", "127.0.0.1"),
                *("--port", str(endpoint.port + 1 + number)),
            )
            _start(stack, "flower-supernode", place / site, words)
        _write_app(place / "app")
        cli.run(place / "app", {"place": str(place), "messages": rounds + 1})
        end = time.monotonic() + _PATIENCE * (rounds + 2)
        while not (place / "stamps").exists():
            if time.monotonic() > end:
                raise RuntimeError("the stock run did not end")
            time.sleep(0.5)
        # The first message is the one for which SuperNodes get the app.
        return [float(word) for word in (place / "stamps").read_text().split()][1:]


def seconds_a_round(message_seconds: list[float]) -> float:
    """The median of two messages, one after the other, as a round of stock FedAvg has: train, evaluate."""
    return statistics.median(2 * seconds for seconds in message_seconds)


def _start(stack: ExitStack, program: str, home: Path, words: tuple[str | Path, ...]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    environment = flower_environment(home)
    del environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [flower_program(program), *map(str, words)],
            env=environment,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write_app(path: Path) -> None:
    (path / "stock").mkdir(parents=True)
    (path / "pyproject.toml").write_text(_PROJECT)
    (path / "stock" / "__init__.py").write_text("")
    (path / "stock" / "server.py").write_text(_SERVER)
    (path / "stock" / "client.py").write_text(_CLIENT)
