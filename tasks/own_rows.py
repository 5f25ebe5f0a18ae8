"""A job's rows for those whose own they are: who simulates or evaluates hears of what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.job.job import Job
from protocol.plain_text import LONGEST_LABEL, MOST_LABELS, is_plain, quoted
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Examples
from tasks.data.read_table import read_table
from tasks.data.row_groups import read_groups
from tasks.data.rows import Rows, joined, labels_in, once, present
from tasks.group_task import GroupTask
from tasks.model.adapted_model import AdaptedModel
from tasks.registry import section_of, task_of


def read_own_rows(job: Job) -> Rows:
    """Read the rows of all of a job's sources, one after another. Raises DataError if any are missing."""
    return joined(read_own_sources(job))


@timed(Part.DATA)
def read_own_sources(job: Job) -> tuple[Rows, ...]:
    """Read the rows that ``data.source`` names, and those of each source of a mix. Raises DataError.

    A row whose content an earlier source has is left out: at a site it is a blank example.
    """
    found = [_read_whole(job, job.data)]
    for source in job.data.mix:
        try:
            found.append(_read_whole(job, source))
        except DataError as error:
            raise DataError(f"data.mix, alias={source.alias!r}: {error}") from error
    if not job.data.mix:
        return tuple(found)
    digest = task_of(job).digest
    apart = once(found, [[digest(content) for content in rows.contents] for rows in found])
    return tuple(
        rows.take(place for place, content in enumerate(rows.contents) if content is not None)
        for rows in apart
    )


@timed(Part.DATA)
def read_validation_rows(job: Job) -> Rows | None:
    """Read the rows that are held out apart, None without. Raises DataError if one lacks anything."""
    place = job.data.validation_source
    if place is None:
        return None
    try:
        return _read_whole(job, place)
    except DataError as error:
        key = "data.validation" if job.data.validation is not None else "data.validation_split"
        raise DataError(f"{key}: {error}") from error


def read_own_column(job: Job, column: str, *, key: str) -> tuple[str, ...]:
    """One column as text, which the job's ``key`` names. Raises DataError if a row has no value there."""
    table = read_table(job.data, columns=[column])
    values = tuple(map(present, table.column(column, key=key)))
    check_whole(values, key=key, faults=table.faults)
    return tuple(value for value in values if value is not None)


def check_whole(values: Sequence[object], *, key: str, faults: Mapping[int, str]) -> None:
    """Raises DataError for the first value that is missing, with what ``faults`` says of its row."""
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        why = faults.get(missing[0], "nothing is there")
        raise DataError(
            f"{key}: row {missing[0] + 1} has no value: {why} ({len(missing)} in all); correct such rows "
            "or remove them from the data"
        )


@timed(Part.DATA)
def encode_own_rows(
    adapted: AdaptedModel,
    rows: Rows,
    chosen: NDArray[np.int64],
    *,
    labels: tuple[str, ...],
    key: str = "data",
) -> Examples:
    """Some of the rows, which the job's ``key`` names, as examples. Raises DataError for a blank one."""
    found = adapted.task.encode(adapted.base.reader, rows.take(map(int, chosen)), labels=labels)
    for reason, places in found.blank.items():
        raise DataError(
            f"{key}: row {chosen[places[0]] + 1} cannot be used: {reason} ({len(places)} in all); "
            "remove such rows from the data"
        )
    return found.examples


def label_names(rows: Rows, *, declared: tuple[str, ...], held_out: Rows | None = None) -> tuple[str, ...]:
    """The labels in the order of the head's outputs: as the job lists them, else sorted.

    Empty for rows without labels. ``held_out`` are those of a file of their own. Raises DataError if a
    label is not on the job's list, or none that can be shown, or if all examples have the same one.
    """
    if rows.labels is None:
        return ()
    own, others = _labels_of(rows), _labels_of(held_out)
    found = sorted(own | others)
    if len(own) < 2:
        said = f"every example has the label {found[0]!r}" if found else "no example has a label"
        raise DataError(f"data.label: {said}; a classifier needs at least two")
    if not declared:
        _check_plain(found)
        return tuple(found)
    unknown = sorted(set(found) - set(declared))
    if unknown:
        like = next((label for label in declared if label == unknown[0].strip()), None)
        advice = (
            "add it to data.labels or remove its examples"
            if like is None
            else f"take the spaces around {like!r} out of the data"
        )
        raise DataError(
            f"data.labels: expected one of {', '.join(declared)}, got "
            f"{', '.join(map(quoted, unknown[:5]))}; {advice}"
        )
    return declared


def _labels_of(rows: Rows | None) -> set[str]:
    entries = () if rows is None else rows.labels or ()
    return {label for entry in entries for label in labels_in(entry)}


def _check_plain(labels: Sequence[str]) -> None:
    for label in labels:
        if len(label) > LONGEST_LABEL or not is_plain(label):
            raise DataError(
                f"data.label: expected labels of up to {LONGEST_LABEL} characters that can all be seen, "
                f"got {quoted(label)}"
            )
    if len(labels) > MOST_LABELS:
        raise DataError(f"data.label: expected {MOST_LABELS} labels at most, got {len(labels)}")


def _read_whole(job: Job, place: SourceKeys) -> Rows:
    task = task_of(job)
    rows = task.read(place, section_of(job))
    check_whole(rows.contents, key="data", faults=rows.faults)
    check_whole(rows.labels or (), key="data.label", faults=rows.faults)
    if isinstance(task, GroupTask) and job.data.group is not None:
        return task.group(rows, read_groups(place, job.data.group, rows))
    return rows
