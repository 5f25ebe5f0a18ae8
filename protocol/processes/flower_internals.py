"""What Confide uses of Flower beyond ``flwr.app``, ``flwr.clientapp`` and ``flwr.serverapp``: all of it.

Only these three are documented to last; the rest moves between minor versions. A test keeps every other
import of Flower out, and ``tests/protocol/processes/test_flower_contract.py`` tries what is assumed of it.
"""

from __future__ import annotations

from typing import Any

from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "identify_process", "make_run", "run_simulation"]


def make_run(run_id: int) -> Run:
    """A run with no more than a number, for a Grid that no SuperLink stands behind."""
    return Run.create_empty(run_id=run_id)


def identify_process(*, run_id: int, node_id: int, task_id: int) -> None:
    """Say whose process this is, as Flower does in those it starts: ``Message`` raises before that."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def run_simulation(**arguments: Any) -> None:
    """Flower's simulation engine, imported when it is wanted: it takes seconds."""
    from flwr.simulation import run_simulation as run

    run(**arguments)
