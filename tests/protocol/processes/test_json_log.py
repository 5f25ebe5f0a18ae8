"""Log lines: what is in them, and what nobody can put into them."""

from __future__ import annotations

import json
import logging
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ModelError, RunError
from protocol.processes.json_log import LONGEST, JsonFormatter, PlainFormatter, about, logged_as_json

TEXT = "the patient has zorvaximal fever"


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("confide.test")
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)


def record(message: str, *arguments: Any, error: BaseException | None = None) -> logging.LogRecord:
    about_error = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("confide.x", logging.INFO, "x.py", 1, message, arguments, about_error)


def raised(act: Any) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        act()
    return caught.value


def quotes() -> None:
    raise ValueError(TEXT)


def leads_on() -> None:
    try:
        quotes()
    except ValueError as error:
        raise ModelError("the model cannot be loaded") from error


def in_passing() -> None:
    try:
        quotes()
    except ValueError:
        open("/nowhere/at/all")  # noqa: SIM115


def leads_round() -> None:
    first, second = RunError("one"), RunError("other")
    first.__cause__, second.__cause__ = second, first
    raise first


# What nobody can put into them.


@pytest.mark.parametrize("act", [quotes, leads_on, in_passing, leads_round])
@pytest.mark.parametrize("formatter", [PlainFormatter(), JsonFormatter(site="north")])
def test_an_error_quotes_nobody(formatter: logging.Formatter, act: Any) -> None:
    line = formatter.format(record("failed", error=raised(act)))
    assert "zorvaximal" not in line
    assert "processes/test_json_log.py" in line


def test_what_another_formatter_kept_is_not_used() -> None:
    found = record("failed", error=raised(quotes))
    assert TEXT in logging.Formatter().format(found)
    assert TEXT not in PlainFormatter().format(found)
    assert TEXT not in JsonFormatter(site="north").format(found)


@given(st.text(), st.text())
def test_no_string_ends_a_line_or_begins_another(message: str, run: str) -> None:
    with about(run=run):
        line = JsonFormatter(site="north").format(record("%s", message))
        plain = PlainFormatter().format(record("%s", message))
    assert line.isprintable()
    assert line.isascii()
    assert plain.isprintable()
    found = json.loads(line)
    assert (found["message"], found["run"]) == (message, run)


@pytest.mark.parametrize("forged", ["\n", "\r", "\x1b[2J", "\x85", "\u2028", "\ud800", "\x00", "\u202e"])
def test_controls_are_written_out(forged: str) -> None:
    line = PlainFormatter().format(record("run %s", f'a{forged}2026-01-01 INFO confide.x: {{"run":"b"}}'))
    assert forged not in line
    assert len(line.splitlines()) == 1


def test_an_error_of_ours_cannot_forge_a_line_either() -> None:
    error = RunError('x\n{"level": "INFO"}')
    assert len(PlainFormatter().format(record("failed", error=error)).split("\n")) == 2
    assert "\n" not in JsonFormatter(site="north").format(record("failed", error=error))


def test_a_message_has_an_end() -> None:
    line = JsonFormatter(site="north").format(record("%s", "x" * 10**6))
    assert len(line) < 2 * LONGEST


# What is in them.


def test_a_line_says_what_it_is_about(tmp_path: Path, log: logging.Logger) -> None:
    path = tmp_path / "agent.log"
    with logged_as_json(path, site="north"):
        log.info("before")
        with about(run="tweets"):
            with about(round_number=3):
                log.warning("%d %s", 1, "step")
            log.info("between")
        log.info("after")
    log.info("not any more")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["message"], line["run"], line["round"]) for line in lines] == [
        ("before", None, None),
        ("1 step", "tweets", 3),
        ("between", "tweets", None),
        ("after", None, None),
    ]
    assert {(line["site"], line["logger"]) for line in lines} == {("north", "confide.test")}
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "INFO", "INFO"]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_thread_is_about_something_else() -> None:
    found: list[str] = []

    def other() -> None:
        found.append(json.loads(JsonFormatter(site="north").format(record("x")))["run"])

    with about(run="mine"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [None]


def test_what_a_block_was_about_ends_with_it() -> None:
    with pytest.raises(RunError), about(run="one", round_number=1):
        raise RunError("x")
    assert json.loads(JsonFormatter(site="north").format(record("x")))["run"] is None


def test_a_long_log_is_begun_anew(
    tmp_path: Path, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["protocol.processes.json_log"], "_FILE_BYTES", 1000)
    with logged_as_json(tmp_path / "agent.log", site="north"):
        for number in range(50):
            log.info("line %d", number)
    files = sorted(tmp_path.iterdir())
    assert 2 <= len(files) <= 6
    assert all(path.stat().st_size <= 1000 for path in files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert "line 49" in {line["message"] for line in lines}


def test_an_error_says_where_it_was() -> None:
    line = json.loads(JsonFormatter(site="north").format(record("failed", error=raised(leads_on))))
    assert line["error"][0] == "ModelError: the model cannot be loaded"
    assert "ValueError" in line["error"]
    assert any("in quotes" in place for place in line["error"])
