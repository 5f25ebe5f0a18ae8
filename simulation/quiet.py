"""A library's log, held back where a run has the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


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
