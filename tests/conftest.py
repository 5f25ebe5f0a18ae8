"""What holds for every test: no network, few threads, one kind of terminal. What is skipped is told."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small spend their time waiting for threads if there are several.
os.environ["OMP_NUM_THREADS"] = "1"

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped for which reason: it may be a program that is missing here."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} skipped: {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # Of a skipped test it is its file, its line and the reason.
    told = report.longrepr
    return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
