"""Log lines: one JSON object each for machines, one line of text each for people, and no data in either.

Whoever logs does not repeat which run it is about: ``about`` says it once, for all that is logged within::

    with logged_as_json(home / "agent.log", site="north"), about(run="tweets", round_number=3):
        log.info("answered")

writes ``{"time": …, "level": "INFO", "logger": …, "message": "answered", "site": "north", "run": "tweets",
"round": 3}``. What a string holds cannot end a line. Of an error only its kind and place are written, and
its text if it is one of Confide's own or the system's: others may quote an example.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from privacy.errors import ConfideError

LONGEST = 8192  # characters of a message, or of an error's text
_FILE_BYTES, _OLD_FILES = 10_000_000, 5
_MOST_FRAMES = 30  # of each error, the innermost
_MOST_ERRORS = 5  # that led to one another

_run: ContextVar[str | None] = ContextVar("run", default=None)
_round: ContextVar[int | None] = ContextVar("round", default=None)


@contextmanager
def about(*, run: str | None = None, round_number: int | None = None) -> Iterator[None]:
    """Within this block, on this thread, what is logged is about a run or a round of it."""
    run_before = _run.set(_run.get() if run is None else run)
    round_before = _round.set(_round.get() if round_number is None else round_number)
    try:
        yield
    finally:
        _run.reset(run_before)
        _round.reset(round_before)


class PlainFormatter(logging.Formatter):
    """A line for people; below it, for an error, a line for each place that it passed."""

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record)
        lines = [f"{moment} {record.levelname} {record.name}: {_message(record)}"]
        if record.exc_info and record.exc_info[1] is not None:
            lines += [f"  {line}" for line in describe(record.exc_info[1])]
        return "\n".join(_one_line(line) for line in lines)


class JsonFormatter(logging.Formatter):
    """A JSON object for machines, in ASCII; ``site`` is whose process it is, the coordinator's included."""

    def __init__(self, *, site: str) -> None:
        super().__init__()
        self._site = site

    def format(self, record: logging.LogRecord) -> str:
        table: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "site": self._site,
            "run": _run.get(),
            "round": _round.get(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            table["error"] = describe(record.exc_info[1])
        return json.dumps(table)


@contextmanager
def logged_as_json(path: Path, *, site: str) -> Iterator[None]:
    """Write what Confide logs to a file of its owner's alone, which is begun anew when it is long."""
    handler = _OwnFile(path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="ascii")
    handler.setFormatter(JsonFormatter(site=site))
    root = logging.getLogger("confide")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def log_to_terminal() -> None:
    """Write what Confide logs, and the warnings of others, to standard error, and so what nobody caught."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    # Libraries bring handlers of their own when they are imported: those would print errors whole.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log = logging.getLogger("confide")
    log.setLevel(logging.INFO)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("stopped by an error that nothing expected", exc_info=(kind, error, trace))

    def uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            uncaught(found.exc_type, found.exc_value, found.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread


def describe(error: BaseException) -> list[str]:
    """An error and those that led to it, newest first: kinds and places, and texts that quote nobody."""
    lines: list[str] = []
    found: BaseException | None = error
    for _ in range(_MOST_ERRORS):
        if found is None:
            break
        lines.append(_heading(found))
        frames = traceback.extract_tb(found.__traceback__)[-_MOST_FRAMES:]
        lines += [
            f"  {'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}"
            for frame in reversed(frames)
        ]
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return lines


def _heading(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, ConfideError):
        return f"{kind}: {str(error)[:LONGEST]}"
    if isinstance(error, OSError) and error.strerror:
        return f"{kind}: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    return kind


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}… ({len(message)} characters)"


def _one_line(text: str) -> str:
    """A text on one line, and nothing in it that a terminal would act on."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class _OwnFile(RotatingFileHandler):
    """A log that its owner alone can read, whatever the process makes files as."""

    def _open(self) -> io.TextIOWrapper:
        number = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return io.TextIOWrapper(os.fdopen(number, "ab"), encoding=self.encoding)
