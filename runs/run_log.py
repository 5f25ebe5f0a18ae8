"""A run's own log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.messages.envelope import COORDINATOR
from protocol.processes.json_log import PlainFormatter, about, logged_as_json
from runs.asked_folder import AskedFolder


@contextmanager
def logged(folder: AskedFolder) -> Iterator[None]:
    """Write what Confide logs to the run's own log: ``run.log`` for people, ``run.jsonl`` for machines."""
    handler = logging.FileHandler(folder.path / "run.log", encoding="utf-8")
    handler.setFormatter(PlainFormatter())
    root = logging.getLogger("confide")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        with (
            logged_as_json(folder.path / "run.jsonl", site=COORDINATOR),
            about(run=folder.path.name),
        ):
            try:
                yield
            except Exception:
                root.exception("the run stopped")
                raise
    finally:
        root.removeHandler(handler)
        handler.close()
