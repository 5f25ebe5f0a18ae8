"""No program that a test starts outlives the test runner."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import children
from tests.needs import needs_linux

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Runners of tests: each starts something with its argument in the command line, and is killed. The child
# says itself that it started: while it becomes its program, it has no command line.
ONE_CHILD = """
import sys
from tests import children
child = "import time; print('started', flush=True); time.sleep(600)"
children.start([sys.executable, "-c", child, sys.argv[1]]).wait()
"""
FEDERATION = """
import sys
from pathlib import Path
from tests.federation.local import local_federation
with local_federation(Path(sys.argv[1]), sites=("north",)) as federation:
    print("started", flush=True)
    federation.processes["server"].wait()
"""


def kill_runner(code: str, mark: str, *, beside: int) -> None:
    """Kill a runner once it has started what it starts, and there are so many processes ``beside`` it."""
    command = [sys.executable, "-c", code, mark]
    with children.start(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "started\n"
        wait_until(lambda: len(running(mark)) > beside, of=mark)
        runner.kill()


def wait_until(reached: Callable[[], bool], *, of: str, seconds: float = 60) -> None:
    """Wait for the processes that have ``of`` in their command line."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, running(of)
        time.sleep(0.05)


def wait_until_gone(what: str) -> None:
    """Wait until no process has ``what`` in its command line."""
    wait_until(lambda: not running(what), of=what)


def running(what: str) -> list[str]:
    """The command lines of all processes that have ``what`` in theirs.

    One that has ended has none, and neither has one that is just becoming another program.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if what in words:
            found.append(words)
    return found


@needs_linux
def test_a_program_ends_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    mark = f"a-mark-{tmp_path.name}-{os.getpid()}"
    kill_runner(ONE_CHILD, mark, beside=1)
    wait_until_gone(mark)


@needs_linux
@pytest.mark.process
def test_a_federation_ends_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    """SuperLink, front and SuperNode too, which its server, relay and agent started."""
    folder = str(tmp_path / "f")
    kill_runner(FEDERATION, folder, beside=5)
    wait_until_gone(folder)


def test_programs_that_go_on_are_started_in_one_way() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Popen")
    ]
    assert [call.partition(":")[0] for call in calls] == ["tests/children.py"], calls
