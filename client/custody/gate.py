"""What a custodian lets into training: a row that stays out is a blank example."""

from __future__ import annotations

from dataclasses import replace

from tasks.data.named_files import UnreadableFileError
from tasks.data.rows import Rows
from tasks.task import Gate, GatedTask, Task


def let_in(rows: Rows, *, task: Task, rules: Gate | None) -> Rows:
    """The rows, of which those that ``rules`` keep out have no content, and a fault that says why.

    There are as many as before, and each is judged by itself: the number of examples, on which plans and
    rates depend, tells nothing of what is in them, and what one row holds decides about no other.
    """
    if rules is None or not isinstance(task, GatedTask):
        return rows
    faults: dict[int, str] = {}
    for row, content in enumerate(rows.contents):
        fault = None if content is None else _fault(content, task, rules)
        if fault is not None:
            faults[row] = fault
    contents = tuple(None if row in faults else content for row, content in enumerate(rows.contents))
    return replace(rows, contents=contents, faults={**rows.faults, **faults})


def _fault(content: object, task: GatedTask, rules: Gate) -> str | None:
    try:
        return rules.fault(task.judged(content))
    except UnreadableFileError as error:
        return str(error)
