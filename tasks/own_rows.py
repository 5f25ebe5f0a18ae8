"""A job's rows for those whose own they are: who simulates or evaluates hears of what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from protocol.job.job import Job
from tasks.data.examples import Examples
from tasks.data.rows import Rows
from tasks.data.table import open_table, text_column
from tasks.model.adapted_model import AdaptedModel
from tasks.registry import find_task, section_of


def read_own_rows(job: Job) -> Rows:
    """Read the rows that the job names. Raises DataError if one lacks anything."""
    rows = find_task(job.task).read(job.data, section_of(job))
    check_whole(rows.contents, key="data")
    check_whole(rows.labels or (), key="data.label")
    return rows


def read_own_column(job: Job, column: str, *, key: str) -> tuple[str, ...]:
    """One column as text, which the job's ``key`` names. Raises DataError if a row has no value there."""
    values = text_column(open_table(job.data, columns=[column]), column, key=key)
    check_whole(values, key=key)
    return tuple(value for value in values if value is not None)


def check_whole(values: Sequence[object], *, key: str) -> None:
    """Raises DataError for the first value that is missing."""
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise DataError(
            f"{key}: row {missing[0] + 1} has no value, or none that can be decoded "
            f"({len(missing)} in all; data.encoding is for CSV files); remove such rows from the data"
        )


def encode_own_rows(
    adapted: AdaptedModel, rows: Rows, chosen: NDArray[np.int64], *, labels: tuple[str, ...]
) -> Examples:
    """Some of the rows as examples. Raises DataError where one would be blank."""
    found = adapted.task.encode(adapted.base.reader, rows.take(map(int, chosen)), labels=labels)
    for reason, places in found.blank.items():
        raise DataError(
            f"data: {len(places)} rows cannot be used, the first is row "
            f"{chosen[places[0]] + 1}: {reason}; remove them from the data"
        )
    return found.examples


def label_names(rows: Rows, *, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the order of the head's outputs: as the job lists them, else sorted.

    Empty for rows without labels. Raises DataError if a label is not on the job's list, or if all examples
    have the same one.
    """
    found = sorted({label for label in rows.labels or () if label is not None})
    if rows.labels is None:
        return ()
    if len(found) < 2:
        raise DataError(
            f"data.label: every example has the label {found[0]!r}; a classifier needs at least two"
        )
    if not declared:
        return tuple(found)
    unknown = sorted(set(found) - set(declared))
    if unknown:
        raise DataError(
            f"data.labels: expected one of {', '.join(declared)}, got {', '.join(unknown[:5])}; "
            "add it to data.labels or remove its examples"
        )
    return declared
