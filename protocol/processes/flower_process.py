"""Flower's processes: the environment that each gets, and a child that is kept running.

One loop owns all children and calls ``tend`` a few times a second, so that there are no threads to agree
with one another::

    child = Child(program, say=print)
    child.start()
    while not stop.wait(POLL):
        child.tend()
    child.stop()
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.errors import RunError
from protocol.processes.exit_code import how_it_ended

POLL = 0.2  # seconds between two looks at a child

_LONGEST_PAUSE = 60.0  # seconds before a child that keeps dying is started again
_SETTLED = 60.0  # seconds after which a child counts as well again
_LONGEST_LOG = 20_000_000  # bytes
_LOOPBACK = "localhost,127.0.0.1,::1"
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
# The last line of a Python traceback; what is written after it tells that there was one, not which.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception): ")
_TETHER = Path(__file__).with_name("tether.py")


def flower_program(name: str) -> str:
    """The path of one of Flower's commands beside this Python. Raises RunError if it is not installed."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not os.access(path, os.X_OK):
        raise RunError(f"expected Flower's {name} at {path}, found none: install confide again")
    return str(path)


# What a process that may run anybody's code gets to see of this one's environment.
_HARMLESS = {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
_PROXIES = {"no_proxy", "http_proxy", "https_proxy", "all_proxy"}


# Nobody sits in front of these processes: what they write is as wide as any message, without colour.
_UNDECORATED = {
    "COLUMNS": "10000",
    "TERMINAL_WIDTH": "10000",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "FORCE_COLOR": "",
    "PY_COLORS": "",
    "GITHUB_ACTIONS": "",
    "TTY_COMPATIBLE": "0",
    "PYTHONUTF8": "1",
}


def relay_environment(home: Path) -> dict[str, str]:
    """The environment of a relay: as Flower's others, without what this process may hold in its own.

    It has the network, a SuperNode runs what Flower delivers, and environments often hold credentials.
    """

    def harmless(name: str, value: str) -> bool:
        if name.lower() in _PROXIES:
            return "@" not in value  # else a password is in it
        return name in _HARMLESS or name in _UNDECORATED or name.startswith(("LC_", "FLWR_", "RAY_USAGE"))

    return {name: value for name, value in flower_environment(home).items() if harmless(name, value)}


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of a Flower process whose FLWR_HOME is ``home``.

    Settings of Flower that this process inherited do not count, but for how much it logs.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLWR_") or name == "FLWR_LOG_LEVEL"
    }
    # Flower's HTTP client obeys the proxies of the environment, and would ask them for this very machine.
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), _LOOPBACK]))
    return inherited | {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **_UNDECORATED,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a child runs. ``command`` begins with an absolute path; ``user`` needs root."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    user: str | None = None


class Child:
    """A program that is started again when it ends, until it is stopped.

    It has a process group of its own, so that Ctrl-C in a terminal reaches it only by way of its
    supervisor. Start it from a thread that lives as long as it does: on Linux it ends with that thread.
    """

    def __init__(
        self,
        program: Program,
        *,
        say: Callable[[str], None],
        first_pause: float = 1.0,
        longest_pause: float = _LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.program = program
        self._say, self._clock = say, clock
        self._first_pause = self._pause = first_pause
        self._longest_pause = longest_pause
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._begun = 0.0, 0
        self._due: float | None = None

    @property
    def pid(self) -> int | None:
        """The process, if one runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def last_words(self) -> str:
        """Why it ended: the last exception in what it wrote since it was started, or else the last line."""
        if not self.program.log.exists():
            return ""
        with self.program.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begun = self._begun if self._begun <= size else 0  # its log was shortened meanwhile
            file.seek(max(begun, size - 4096))
            lines = _COLOUR.sub("", file.read().decode(errors="replace")).rstrip().splitlines()
        raised = [line for line in lines if _EXCEPTION.match(line)]
        last = (raised or lines or [""])[-1]
        return "".join(letter for letter in last.strip() if letter.isprintable())

    def start(self) -> None:
        """Start the program. Raises RunError if there is none, or its user cannot be had."""
        program = self.program
        if not os.access(program.command[0], os.X_OK):
            raise RunError(f"{program.name}: {program.command[0]} is not a program that can be run")
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            self._begun = log.tell()
            try:
                self._process = subprocess.Popen(  # noqa: S603  # no shell, and nobody else's words
                    [sys.executable, "-I", str(_TETHER), str(os.getpid()), *program.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=program.folder,
                    start_new_session=True,
                    umask=0o077,
                    **_credentials(program),
                )
            except (OSError, LookupError) as error:
                as_user = "" if program.user is None else f" as {program.user}"
                raise RunError(f"{program.name} cannot be started{as_user}: {error}") from error
        self._started, self._due = self._clock(), None

    def tend(self) -> None:
        """Start the program again if it ended and its pause is over. Returns at once."""
        if self._process is None:
            return
        code, now = self._process.poll(), self._clock()
        if code is None:
            if now - self._started > _SETTLED:
                self._pause = self._first_pause
            shorten(self.program.log)
        elif self._due is None:
            self._signal(signal.SIGKILL)  # what it left behind would hold its port
            self._due = now + self._pause
            self._say(
                f"{self.program.name} ended {how_it_ended(code)}; it starts again in {self._pause:g} s, "
                f"see {self.program.log}"
            )
            self._pause = min(2 * self._pause, self._longest_pause)
        elif now >= self._due:
            self.start()
            self._say(f"{self.program.name} was started again")

    def stop(self, *, grace: float = 8.0) -> None:
        """End the program and its process group: politely, and after ``grace`` seconds by force."""
        if self._process is None:
            return
        # Said again as SIGINT, it keeps Flower's servers from waiting for connections that stay open.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace / 2)
                break
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def shorten(log: Path, limit: int = _LONGEST_LOG) -> None:
    """Move a log that is longer than ``limit`` bytes aside; whoever appends to it goes on at its start."""
    if log.exists() and log.stat().st_size > limit:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def _credentials(program: Program) -> dict[str, Any]:
    """Popen's arguments for a program's environment and user. Raises KeyError for an unknown user."""
    if program.user is None:
        return {"env": dict(program.environment)}
    account = pwd.getpwnam(program.user)
    return {
        "env": {**program.environment, "HOME": account.pw_dir, "USER": program.user},
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": os.getgrouplist(program.user, account.pw_gid),
    }
