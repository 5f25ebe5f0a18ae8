"""What a custodian lets into training: a row that stays out is a blank example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.data.named_files import UnreadableFileError
from tasks.data.rows import Rows
from tasks.data.text_gate import TextGate
from tasks.task import Gate, GatedTask, Task

if TYPE_CHECKING:
    from tasks.text_density import TextDensity


def let_in(rows: Rows, *, task: Task, rules: Gate | None) -> Rows:
    """The rows, of which those that ``rules`` keep out have no content, and a fault that says why.

    There are as many as before, and each is judged by itself: the number of examples, on which plans and
    rates depend, tells nothing of what is in them, and what one row holds decides about no other. Remarks
    are for the custodian alone. Raises ModelError for a rule whose model cannot be loaded.
    """
    if rules is None or not isinstance(task, GatedTask):
        return rows
    density = _open_density(rules)
    faults: dict[int, str] = {}
    for row, content in enumerate(rows.contents):
        fault = None if content is None else _fault(content, task, rules, density)
        if fault is not None:
            faults[row] = fault
    return replace(
        rows,
        contents=tuple(None if row in faults else content for row, content in enumerate(rows.contents)),
        faults={**rows.faults, **faults},
        remarks=(*rows.remarks, *(density.remarks if density else ())),
    )


def _open_density(rules: Gate) -> TextDensity | None:
    """The language model that rules on texts may ask for. It is let go of with the rows that it judges."""
    if not isinstance(rules, TextGate) or rules.density is None:
        return None
    from tasks.text_density import TextDensity

    return TextDensity.load(rules.density)


def _fault(content: object, task: GatedTask, rules: Gate, density: TextDensity | None) -> str | None:
    try:
        judged = task.judged(content)
        fault = rules.fault(judged)
        return fault if fault is not None or density is None else density.fault(judged)
    except UnreadableFileError as error:
        return str(error)
