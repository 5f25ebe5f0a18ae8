"""``confide server``, as it is typed, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from confide.cli import main
from confide.server_view import print_status
from protocol.processes.flower_process import flower_environment, flower_program
from runs.run_folder import RunFolder
from runs.run_state import RunState, write_state
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import read_address
from server.service.nodes import read_nodes
from server.service.server_status import ServerStatus
from tests import children
from tests.needs import needs, needs_linux
from tests.ports import free_port
from tests.server.coordinators import change_sites, fix_superlink_port, make_coordinator, make_site, revoke
from tests.server.runs import make_job, make_record, make_run

needs_nginx = needs("nginx")
IN_ITS_COMMAND = {"nginx": "nginx: master", "embedded": "embedded_proxy.py"}


def until(condition: Callable[[], object], what: Callable[[], str], patience: float = 150) -> None:
    """Look again and again: what is waited for happens in another process."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"it did not happen; {what()}"
        time.sleep(0.05)


class Server:
    """``confide server start`` in a process of its own, with its lines in a file."""

    def __init__(self, folder: CoordinatorFolder, log: Path, *options: str) -> None:
        self.folder, self.log = folder, log
        with log.open("wb") as file:
            self.process = children.start(
                [sys.executable, "-m", "confide", "server", "start", str(folder.path), *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, line: str, times: int = 1) -> None:
        until(
            lambda: self.said.count(line) >= times or self.process.poll() is not None,
            lambda: f"{line!r} in {self.said}",
        )
        assert self.said.count(line) >= times, self.said

    def children(self) -> list[int]:
        """Every process that works on the folder but the command itself."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.folder.path.resolve()) in words and int(entry.name) != self.process.pid:
                found.append(int(entry.name))
        return found

    def pid_of(self, word: str) -> int:
        (pid,) = (
            pid for pid in self.children() if word in Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        )
        return pid

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        until(lambda: not self.children(), lambda: f"{self.children()} run on")
        return code


class Terminal:
    """Runs ``confide`` where it stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, output and errors: never a traceback."""
        self._patch.setattr(sys, "argv", ["confide", "server", *map(str, arguments)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = self._capture.readouterr()
        assert "Traceback" not in errors
        return int(caught.value.code or 0), output, errors


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capfd)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(30)


def test_a_folder_that_is_none_is_refused(call: Terminal, tmp_path: Path) -> None:
    for command in ("start", "status", "proxy-config"):
        code, _, errors = call(command, tmp_path)
        assert code == 2
        assert "no coordinator's folder" in errors


def test_an_nginx_that_is_not_there_is_refused(
    call: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.service.proxy.find_nginx", lambda: None)
    code, _, errors = call("start", make_coordinator(tmp_path).path, "--proxy", "nginx")
    assert code == 2
    assert "nginx is not installed" in errors


@pytest.mark.process
def test_a_superlink_that_cannot_start_says_why(call: Terminal, tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path)
    folder.database.mkdir()
    code, output, errors = call("start", folder.path, "--proxy", "none")
    assert code == 1
    (told,) = errors.splitlines()
    assert "SuperLink did not start: " in told
    assert "unable to open database file" in told
    assert "superlink.log" in told
    assert "open to every user of this machine" in output


@pytest.mark.parametrize("proxy", ["none", "embedded"])
def test_a_port_that_is_taken_is_named(call: Terminal, tmp_path: Path, proxy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        folder = make_coordinator(tmp_path, host="127.0.0.1", port=port)
        code, _, errors = call("start", folder.path, "--proxy", proxy)
    assert code == 1
    assert errors.startswith(
        f"confide: port {port} is taken: another program listens at 127.0.0.1:{port}; "
    )
    assert not (folder.logs / "superlink.log").exists()


def test_a_proxy_of_ones_own_is_told_where_the_superlink_will_be(call: Terminal, tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path, host="fl.example.org", port=8443)
    code, first, _ = call("proxy-config", folder.path)
    assert code == 0
    assert f"server {read_address(folder.flower_home)} " in first
    assert call("proxy-config", folder.path)[1] == first


def test_status_without_a_server(call: Terminal, tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path, "north", "south", days=20)
    revoke(folder, "south")
    make_run(folder.runs / "a-done")
    waiting = make_run(folder.runs / "b-waits", make_job(training={"rounds": 9}), [])
    write_state(waiting, RunState(state="waiting"))
    failed = make_run(folder.runs / "c-failed", None, [make_record(1)])
    write_state(failed, RunState(state="failed", reason="site north\x1b[2J refuses"))
    lost = make_run(folder.runs / "d-lost", None, [make_record(1, epsilon={"north": None})])
    write_state(lost, RunState(state="running"))
    (folder.runs / "e-else").mkdir()
    code, output, _ = call("status", folder.path, "--json")
    assert code == 0
    table = json.loads(output)
    assert (table["running"], table["proxy"]) == (False, None)
    assert [(site["site"], site["state"]) for site in table["sites"]] == [
        ("north", "unknown"),
        ("south", "revoked"),
    ]
    assert [(run["run"], run["state"], run["done"], run["epsilon"]) for run in table["runs"]] == [
        ("a-done", "finished", 2, 3.0),
        ("b-waits", "waiting", 0, None),
        ("c-failed", "failed", 1, 1.5),
        ("d-lost", "interrupted", 1, None),
        ("e-else", "unreadable", 0, None),
    ]
    assert set(table["certificates"]) == {"server.crt", "ca.crt"}
    assert isinstance(RunFolder.open(folder.runs / "a-done"), RunFolder)
    code, output, _ = call("status", folder.path)
    assert code == 0
    assert "not running" in output
    assert "unbounded" in output
    assert "\x1b[2J" not in output
    assert max(len(line) for line in output.splitlines()) <= 100


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("nginx", "running behind nginx"),
        ("embedded", "running behind the embedded proxy"),
        ("none", "running without a proxy"),
        (None, "not running"),
    ],
)
def test_status_names_the_proxy_that_serves(
    capsys: pytest.CaptureFixture[str], proxy: str | None, words: str
) -> None:
    print_status(
        ServerStatus(
            federation="clinics",
            address="fl.example.org:8443",
            running=proxy is not None,
            proxy=proxy,
            sites=[],
            certificates={},
            runs=[],
        )
    )
    assert capsys.readouterr().out.splitlines()[0] == f"clinics at fl.example.org:8443: {words}"


@pytest.mark.process
def test_without_a_proxy_the_superlink_takes_the_address_itself(
    call: Terminal, started: list[Server], tmp_path: Path
) -> None:
    folder = make_coordinator(tmp_path, "north")
    server = Server(folder, tmp_path / "log", "--proxy", "none")
    started.append(server)
    server.wait_for("ready")
    assert read_address(folder.flower_home) == folder.federation.address
    assert "without a proxy" in server.said
    assert json.loads(call("status", folder.path, "--json")[1])["proxy"] == "none"
    assert f"Control API at {folder.federation.address} is open to every user" in server.said
    assert [site["state"] for site in json.loads(call("status", folder.path, "--json")[1])["sites"]] == [
        "never seen"
    ]
    assert server.end(signal.SIGINT) == 130


@pytest.mark.process
@pytest.mark.parametrize("proxy", [pytest.param("nginx", marks=needs_nginx), "embedded"])
@needs_linux
def test_a_servers_life(call: Terminal, started: list[Server], tmp_path: Path, proxy: str) -> None:
    """Sites come, processes die, sites are revoked and added, and all of it ends together."""
    folder = make_coordinator(tmp_path, "north", "south", days=20)
    fix_superlink_port(folder)
    server = Server(folder, tmp_path / "log", "--proxy", proxy)
    started.append(server)
    server.wait_for("ready")
    assert "caution: the server's certificate expires on" in server.said
    ids = {node.site: node.id for node in read_nodes(folder.flower_home)}
    assert set(ids) == {"north", "south"}
    assert call("start", folder.path)[0] == 1
    assert json.loads(call("status", folder.path, "--json")[1])["proxy"] == proxy

    def states() -> dict[str, str]:
        table = json.loads(call("status", folder.path, "--json")[1])
        return {site["site"]: site["state"] for site in table["sites"]}

    (tmp_path / "relay").mkdir()
    node = children.start(
        [
            flower_program("flower-supernode"),
            *("--root-certificates", str(folder.authority_certificate)),
            *("--superlink", folder.federation.address, "--port", str(free_port())),
            *("--auth-supernode-private-key", str(tmp_path / "keys" / "north")),
        ],
        env=flower_environment(tmp_path / "relay"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: states() == {"north": "connected", "south": "never seen"}, lambda: str(states()))

        os.kill(server.pid_of("lean_superlink"), signal.SIGKILL)
        server.wait_for("SuperLink ended by signal 9")
        os.kill(server.pid_of(IN_ITS_COMMAND[proxy]), signal.SIGKILL)
        server.wait_for("proxy was started again")
        server.wait_for("SuperLink answers again")
        assert {node.site: node.id for node in read_nodes(folder.flower_home)} == ids
        assert states()["south"] == "never seen"

        revoke(folder, "north")
        server.wait_for("site north is out")
        assert node.wait(150) is not None  # it is told that nobody knows it, and ends
    finally:
        node.kill()
        node.wait()
    change_sites(folder, east=make_site(folder, "east"))
    server.wait_for("site east may connect now")
    assert states() == {"north": "revoked", "south": "never seen", "east": "never seen"}
    assert server.end(signal.SIGTERM) == 0

    again = Server(folder, tmp_path / "again")
    started.append(again)
    again.wait_for("ready")
    assert "may connect now" not in again.said
    assert again.end(signal.SIGKILL) == -signal.SIGKILL
