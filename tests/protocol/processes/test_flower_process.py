"""A child is kept running, and ends with whoever keeps it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privacy.errors import RunError
from protocol.processes import flower_process
from protocol.processes.flower_process import (
    Child,
    Program,
    flower_environment,
    flower_program,
    relay_environment,
    shorten,
)
from tests import children
from tests.needs import needs_linux

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


class Bench:
    """Children of one test, its clock, and what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.said = folder, 0.0, list[str]()
        self.children: list[Child] = []

    def child(self, code: str, **changes: object) -> Child:
        values = {
            "name": "thing",
            "command": (sys.executable, "-c", code),
            "environment": dict(os.environ),
            "folder": self.folder,
            "log": self.folder / "logs" / "thing.log",
        }
        child = Child(Program(**values | changes), say=self.said.append, clock=lambda: self.now)
        self.children.append(child)
        return child


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for child in bench.children:
        child.stop(grace=5)


def until(condition: Callable[[], object], patience: float = 20) -> None:
    """Look again and again: what is waited for happens in another process."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_what_is_no_program_is_not_started(bench: Bench) -> None:
    with pytest.raises(RunError, match="not a program that can be run"):
        bench.child("", command=("/nowhere/at/all",)).start()
    with pytest.raises(RunError, match="as nobody-by-that-name"):
        bench.child("", user="nobody-by-that-name").start()
    with pytest.raises(RunError, match="install confide again"):
        flower_program("flower-something")


def test_a_child_says_what_it_raised_and_not_what_it_wrote_after_that(bench: Bench) -> None:
    """Of the start that failed: what was raised in an earlier one is not why."""
    said = "print('a.b.OperationalError: no such file'); print('(Background on this error)')"
    child = bench.child(f"{said}; raise SystemExit(1)")
    child.start()
    until(lambda: child.pid is None)
    assert child.last_words == "a.b.OperationalError: no such file"
    later = bench.child("print('  ValueError: quoted by another'); print('bind: in use')")
    assert later.program.log == child.program.log
    later.start()
    until(lambda: later.pid is None)
    assert later.last_words == "bind: in use"


def test_a_child_that_ends_is_started_again_after_longer_and_longer(bench: Bench) -> None:
    child = bench.child("print('out of memory'); raise SystemExit(3)")
    child.start()
    for pause in (1, 2, 4):
        until(lambda: child.pid is None)
        child.tend()
        assert f"ended with exit code 3; it starts again in {pause} s" in bench.said[-1]
        bench.now += pause - 0.1
        child.tend()
        assert "starts again in" in bench.said[-1]
        bench.now += 0.2
        child.tend()
        assert bench.said[-1] == "thing was started again"
    until(lambda: child.pid is None)
    assert child.last_words == "out of memory"


def test_a_child_that_was_well_for_long_starts_again_soon(bench: Bench) -> None:
    child = bench.child(SLEEP, log=bench.folder / "log")
    child.start()
    for _ in range(2):
        bench.now += 61
        child.tend()
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: child.pid is None)
        child.tend()
        assert "ended by signal 9" in bench.said[-1]
        assert "again in 1 s" in bench.said[-1]
        bench.now += 1
        child.tend()


def test_stopping_ends_the_whole_group(bench: Bench) -> None:
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    child = bench.child(code)
    child.start()
    until(lambda: child.last_words != "")
    parent, inner = child.pid, int(child.last_words)
    assert parent is not None
    assert runs(inner)
    child.stop(grace=5)
    until(lambda: not runs(inner) and not runs(parent))
    child.tend()
    assert child.pid is None
    assert bench.said == []


def test_what_a_dead_child_leaves_behind_is_ended_before_it_starts_again(bench: Bench) -> None:
    code = (
        "import os, subprocess, sys, signal;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = bench.child(code)
    child.start()
    until(lambda: child.pid is None)
    inner = int(child.last_words)
    assert runs(inner)
    child.tend()
    until(lambda: not runs(inner))


def test_one_that_does_not_listen_is_ended_by_force(bench: Bench) -> None:
    child = bench.child(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}")
    child.start()
    until(lambda: child.last_words == "up")
    pid = child.pid
    child.stop(grace=0.1)
    assert pid is not None
    assert not runs(pid)


@needs_linux
def test_a_child_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    keeper = (
        "import os, sys, time; from pathlib import Path;"
        "from protocol.processes.flower_process import Child, Program;"
        f"c = Child(Program(name='x', command=(sys.executable, '-c', {SLEEP!r}), environment=os.environ,"
        f" folder=Path('/'), log=Path({str(tmp_path / 'log')!r})), say=print); c.start();"
        "print(c.pid, flush=True); time.sleep(60)"
    )
    with children.start([sys.executable, "-c", keeper], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inner = int(process.stdout.readline())
        until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
        process.kill()
    until(lambda: not runs(inner))


def test_the_environment_is_flowers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_DATABASE", "elsewhere.db")
    monkeypatch.setenv("FLWR_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.org")
    environment = flower_environment(tmp_path)
    assert "FLWR_DATABASE" not in environment
    assert environment["FLWR_LOG_LEVEL"] == "WARNING"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["no_proxy"] == environment["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1"
    assert environment["PATH"].startswith(str(Path(flower_program("flwr")).parent))


def test_a_relay_inherits_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "a", "HF_TOKEN": "b", "PGPASSWORD": "c", "CONFIDE_COORDINATOR": "d"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    given, whole = relay_environment(tmp_path), flower_environment(tmp_path)
    assert not given.keys() & (secrets.keys() | {"HTTPS_PROXY"})
    assert given["HTTP_PROXY"] == "http://proxy:3128"
    names = {name for name in whole if name.startswith("FLWR_") or name.lower() == "no_proxy"}
    assert {name: given[name] for name in names | {"PATH"}} == {
        name: whole[name] for name in names | {"PATH"}
    }


def test_a_long_log_is_moved_aside_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        shorten(log, limit=100)
        assert log.stat().st_size == 100
        shorten(log, limit=99)
        writer.write(b"b")
    assert log.read_bytes() == b"b"
    assert (tmp_path / "log.1").read_bytes() == b"a" * 100


@needs_linux
def test_a_tether_whose_parent_is_gone_runs_nothing(tmp_path: Path) -> None:
    tether = Path(flower_process.__file__).with_name("tether.py")
    mark = tmp_path / "mark"
    command = [sys.executable, str(tether), "1", "/usr/bin/touch", str(mark)]
    assert subprocess.run(command, check=False).returncode == 1
    assert not mark.exists()


@needs_linux
def test_whoever_waits_for_ever_ends_with_its_parent() -> None:
    """A signal that a thread of its own raises would not wake it."""
    waits = (
        "import os, signal, sys, threading; from protocol.processes.tether import tie_to_parent;"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); tie_to_parent();"
        "lock = threading.Lock(); lock.acquire(); print(os.getpid(), flush=True); lock.acquire()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}])"
    with children.start([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inner = int(process.stdout.readline())
        process.kill()
    until(lambda: not runs(inner))
