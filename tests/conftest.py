"""What holds for every test: no network, few threads, one kind of terminal, the same examples each time.

The last line of every run says which tests were left out or skipped, and why.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small spend their time waiting for threads if there are several.
os.environ["OMP_NUM_THREADS"] = "1"

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import tiny

# The same examples in every run, and none fails for being slow: a machine may do much else.
# `--hypothesis-profile=default` looks for new ones.
hypothesis.settings.load_profile("ci")

# What makes a program draw otherwise than for a plain terminal.
_DRAWING = (
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "LINES",
    "PY_COLORS",
    "TERMINAL_WIDTH",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
)


# Marks of slow tests (pyproject.toml says what each means), which `make test` leaves out.
_SLOW = ("process", "statistics", "exhaustive")
_LEFT_OUT = pytest.StashKey[Counter[str]]()
# How many modules were imported when they were last told to stay.
_IMPORTED = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def _terminal() -> Iterator[None]:
    """Nothing depends on the terminal that a test is started from: its width, or whether it has colours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        for name in _DRAWING:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny job's model and data. Tests read it and write elsewhere."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.table(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _plain_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs have reports without charts, which take longer than a tiny run does; runs/report draws them."""
    with pytest.MonkeyPatch.context() as patch:
        if "runs/report" not in request.path.as_posix():
            patch.setattr("runs.report.report.draw_charts", lambda *_: defaultdict(str))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is flushed, but where tests are about power cuts: each flush takes some milliseconds."""
    from tests.privacy.ledgers import unflushed

    with nullcontext() if "tests/privacy/" in request.path.as_posix() else unflushed():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-parts", action="store_true", help="a skipped test is a failure, unless it needs a GPU"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell's script has it for what it starts in the background; programs that tests start and
        # interrupt would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_LEFT_OUT] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow mark with ``but=2`` does not hold for the first two parameter sets of its test.

    Federations come first: they wait for one another's processes, and other tests run meanwhile.
    """
    items.sort(key=lambda item: not item.nodeid.startswith("tests/federation/"))
    seen = Counter[str]()
    for item in items:
        for mark in [mark for mark in item.own_markers if mark.name in _SLOW and "but" in mark.kwargs]:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] <= mark.kwargs["but"]:
                item.own_markers.remove(mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    _let_modules_stay(session.config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if len(sys.modules) > item.config.stash[_IMPORTED] + 100:
        _let_modules_stay(item.config)


def _let_modules_stay(config: pytest.Config) -> None:
    """What is imported by now stays: no test that frees a model looks for garbage in it."""
    config.stash[_IMPORTED] = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        mark = next((name for name in _SLOW if item.get_closest_marker(name)), "not asked for")
        item.config.stash[_LEFT_OUT][mark] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist left out: each of them selects among all tests."""
    told = getattr(node, "workeroutput", {})
    node.config.stash[_LEFT_OUT] = Counter(told.get("left out", {}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Say last what was left out and what was skipped. With ``--all-parts``, fail if anything was."""
    left_out = session.config.stash[_LEFT_OUT]
    if hasattr(session.config, "workeroutput"):  # a worker prints nothing
        session.config.workeroutput["left out"] = dict(left_out)
        return (yield)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = Counter(_reason(report) for report in reporter.stats.get("skipped", []))
    lacking = sum(count for reason, count in skipped.items() if "GPU" not in reason)
    failed = session.config.getoption("all_parts") and lacking > 0
    if failed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield
    told = []
    if left_out:
        told.append(f"left out: {_counted(left_out)}; `make test-all` runs them")
    if skipped:
        told.append(f"skipped: {_counted(skipped)}; `make parts` installs what can be installed")
    if failed:
        told.append("with --all-parts nothing may be skipped")
    if told:
        reporter.write_line("; ".join(told), red=bool(failed), yellow=not failed)


def _counted(what: Counter[str]) -> str:
    return f"{what.total()} tests ({', '.join(f'{name} {count}' for name, count in sorted(what.items()))})"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # Of a skipped test it is its file, its line and the reason.
    told = report.longrepr
    return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
