"""The coordinator's server: the SuperLink and the proxy before it, kept running until it is told to stop.

One thread does everything in turn: it looks at its children, and at ``federation.json``, a few times a
second.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from privacy.errors import ConfideError, RunError
from protocol.processes.flower_process import POLL, Child, Program, shorten
from protocol.processes.ports import is_taken
from server.provisioning.authority import format_day
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli, write_connection
from server.service.nodes import NodeList
from server.service.proxy import PROXIES, listening, proxy_listens
from server.service.superlink import (
    Endpoint,
    hidden_endpoint,
    is_loopback,
    join_address,
    open_endpoint,
    superlink_program,
    wait_until,
)

_LOOK = 10  # turns between two looks at federation.json
_RETRY = 150  # turns until what could not be applied is tried again
_DAY = 86400.0
# Whoever looks whether a server runs holds the lock for an instant.
_TRIES = 5
_BETWEEN_TRIES = 0.02  # seconds


class Service:
    """One server of one folder. ``say`` gets a line for people whenever something happens.

    ``proxy`` is one of server.proxy.PROXIES, or None to leave it to whoever runs this.
    """

    def __init__(self, folder: CoordinatorFolder, *, proxy: str | None, say: Callable[[str], None]) -> None:
        self._folder, self._proxy, self._say = folder, proxy, say
        self._direct = proxy is None and is_loopback(folder.federation.host)
        self._children: list[Child] = []
        self._seen = 0
        self._problems: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set. Raises RunError if it cannot start, or runs already."""
        folder = self._folder
        with lock(folder, note=self._proxy or "none"):
            endpoint = self._endpoint()
            self._check_ports(endpoint)
            write_connection(folder.flower_home, address=endpoint.address, authority=endpoint.authority)
            nodes = NodeList(folder, FlowerCli(folder.flower_home), say=self._say)
            self._introduce(endpoint)
            try:
                self._start(superlink_program(folder, endpoint), endpoint.answers, stop)
                self._apply(nodes, stop)
                if self._proxy is not None and not stop.is_set():
                    program = PROXIES[self._proxy](folder, endpoint)
                    self._start(program, lambda: proxy_listens(folder), stop)
                if not stop.is_set():
                    self._say("ready; Ctrl-C ends it")
                    self._serve(nodes, endpoint, stop)
            finally:
                self._say("ending")
                for child in reversed(self._children):
                    child.stop()

    def _endpoint(self) -> Endpoint:
        if self._direct:
            return open_endpoint(self._folder)
        return hidden_endpoint(self._folder, movable=self._proxy is not None)

    def _check_ports(self, endpoint: Endpoint) -> None:
        """Raises RunError if someone else listens where this server is to: programs only log that."""
        outside = [] if self._proxy is None else listening(self._folder)
        for host, port in [*outside, (endpoint.host, endpoint.port)]:
            if is_taken(host, port):
                raise RunError(
                    f"port {port} is taken: another program listens at {join_address(host, port)}; end it, "
                    "and start the server again"
                )

    def _start(self, program: Program, ready: Callable[[], bool], stop: threading.Event) -> None:
        child = Child(program, say=self._say)
        child.start()
        self._children.append(child)
        up = wait_until(ready, alive=lambda: child.pid is not None and not stop.is_set(), pause=stop.wait)
        if not up and not stop.is_set():
            raise RunError(
                f"{program.name} did not start: {child.last_words or 'no word'}; see {program.log}"
            )

    def _serve(self, nodes: NodeList, endpoint: Endpoint, stop: threading.Event) -> None:
        turn, pid, recovering = 0, self._children[0].pid, False
        while not stop.wait(POLL):
            turn += 1
            for child in self._children:
                child.tend()
            if self._children[0].pid not in (pid, None):
                pid, recovering = self._children[0].pid, True
            if recovering and endpoint.answers():
                recovering = False
                self._say("SuperLink answers again")
                self._apply(nodes, stop)
            changed = turn % _LOOK == 0 and self._stamp() != self._seen
            if not recovering and (changed or (self._problems and turn % _RETRY == 0)):
                self._apply(nodes, stop)
            if turn % int(_DAY / POLL) == 0:
                self._warn()
            shorten(self._folder.logs / "proxy-access.log")

    def _apply(self, nodes: NodeList, stop: threading.Event) -> None:
        """Bring Flower's list to what the file says; what goes wrong is said once and tried again."""
        self._seen = self._stamp()
        try:
            problems = nodes.apply(stopping=stop.is_set)
        except ConfideError as error:
            problems = [] if stop.is_set() else [str(error)]
        for problem in problems:
            if problem not in self._problems:
                self._say(f"caution: {problem}")
        self._problems = problems

    def _stamp(self) -> int:
        path = self._folder.federation_path
        return path.stat().st_mtime_ns if path.exists() else 0

    def _introduce(self, endpoint: Endpoint) -> None:
        federation = self._folder.federation
        if self._proxy is not None:
            name = "nginx" if self._proxy == "nginx" else "the embedded proxy"
            how = f"{name} passes on the Fleet API and nothing else"
        elif self._direct:
            how = "without a proxy"
        else:
            how = f"by your own proxy, to https://{endpoint.address}"
        self._say(f"federation {federation.name}: sites connect to {federation.address}, {how}")
        self._say(f"Flower's Control API at {endpoint.address} is open to every user of this machine")
        until = format_day(min(self._folder.server_until(), self._folder.authority_until()))
        self._say(f"its certificates hold until {until}")
        if self._proxy == "embedded" and os.geteuid() == 0:
            self._say("caution: the embedded proxy is root, as this is: start the server as another user")
        self._warn()

    def _warn(self) -> None:
        for notice in self._folder.expiry_notices(datetime.now(UTC)):
            self._say(f"caution: {notice}")


@contextmanager
def lock(folder: CoordinatorFolder, *, note: str = "") -> Iterator[None]:
    """Hold the folder's lock, with a note in it if one is given. Raises RunError if another server does."""
    path = _lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for left in range(_TRIES, -1, -1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not left:
                    raise RunError(f"a server runs on {folder.path} already: end it first") from error
            time.sleep(_BETWEEN_TRIES)
        if note:
            os.truncate(descriptor, 0)
            os.write(descriptor, note.encode())
        yield
    finally:
        os.close(descriptor)  # which lets go of it, as does a kill


def is_running(folder: CoordinatorFolder) -> bool:
    """Whether a server holds the folder's lock."""
    if not folder.flower_home.exists():
        return False
    try:
        with lock(folder):
            return False
    except RunError:
        return True


def serving_proxy(folder: CoordinatorFolder) -> str | None:
    """What stands before the SuperLink of a server that runs: one of PROXIES, or none; None without one."""
    return _lock_path(folder).read_text(encoding="utf-8") if is_running(folder) else None


def _lock_path(folder: CoordinatorFolder) -> Path:
    """The file that a server locks while it runs, and that says by which proxy."""
    return folder.flower_home / "server.lock"
