"""What libraries and their processes write, kept off a terminal that a run has for itself."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_STDOUT, _STDERR = 1, 2


@contextmanager
def quiet(name: str, *, below: int) -> Iterator[None]:
    """Within this block the logger of this name says only what is at least of level ``below``."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(below)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def terminal_for_us_alone(log: Path) -> Iterator[None]:
    """Within this block ``print`` reaches the terminal, and what else is written to it goes into ``log``.

    Libraries in other languages, processes that they start, and handlers that hold on to ``sys.stderr``
    write to the descriptors 1 and 2, whatever Python's own streams are.
    """
    ours = sys.stdout
    ours.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in (_STDOUT, _STDERR)}
    try:
        with log.open("ab") as file, _same(ours, os.dup(saved[_STDOUT])) as terminal:
            for number in saved:
                os.dup2(file.fileno(), number)
            if _writes_to(ours, _STDOUT):
                sys.stdout = terminal
            yield
    finally:
        sys.stdout = ours
        sys.stderr.flush()
        for number, descriptor in saved.items():
            os.dup2(descriptor, number)
            os.close(descriptor)


def _same(stream: TextIO, descriptor: int) -> TextIO:
    """A stream into a descriptor that writes as another does, a line at a time."""
    return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def _writes_to(stream: object, number: int) -> bool:
    """Whether a stream is one of a descriptor: who replaced it, as tests do, is not replaced."""
    try:
        return bool(stream.fileno() == number)  # type: ignore[attr-defined]  # or it has none
    except (AttributeError, OSError, ValueError):
        return False
