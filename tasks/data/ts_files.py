"""Series as the UEA and UCR archives write them (``.ts``): a case a line, read as one row a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cells import column_of
from tasks.data.file_kinds import open_text
from tasks.data.table import Table
from tasks.data.unpacking import check_room

# The columns that are not channels, which are numbered from 1.
CASE, MOMENT, LABEL = "case", "time", "label"


def read_ts(path: Path, keys: SourceKeys, columns: Sequence[str]) -> Table:
    """Cases in rows of the columns case, time, label, and 1, 2, … for the channels.

    A case's times count from 0; a channel that is shorter than another lacks its last values. Raises
    DataError naming the line of a case with another number of channels than the first, or with times of its
    own.

    Source: Bagnall et al. 2018 (arXiv:1811.00075), the format of the archive.
    """
    names: tuple[str, ...] = ()
    kept: list[list[str | None]] = [[] for _ in columns]
    for case, (number, label, channels) in enumerate(_cases(path, keys)):
        found = (CASE, MOMENT, LABEL, *map(str, range(1, len(channels) + 1)))
        if names and len(found) != len(names):
            raise DataError(
                f"{str(path)!r}: line {number} has {len(channels)} channels, expected {len(names) - 3} "
                "as in the first case"
            )
        names = found
        for moment, values in enumerate(zip_longest(*channels)):
            check_room(path, len(kept[0]) if kept else 0)
            row = dict(zip(names, (str(case), str(moment), label, *values), strict=True))
            for cells, name in zip(kept, columns, strict=True):
                cells.append(row.get(name))
    if not set(names) >= set(columns):
        return Table(names=names)
    cells_of = zip(columns, kept, strict=True)
    return Table(
        names=names,
        columns={name: column_of(cells, encoding=keys.encoding) for name, cells in cells_of},
    )


def _cases(path: Path, keys: SourceKeys) -> Iterator[tuple[int, str | None, list[list[str | None]]]]:
    """Each case: its line's number, its label, and its channels' values as text, None for none."""
    with open_text(path, keys) as file:
        lines = ((number, line.strip()) for number, line in enumerate(file, start=1))
        labelled = _is_labelled(path, lines)
        for number, line in lines:
            if not line or line.startswith("#"):
                continue
            if line.startswith("("):
                raise DataError(
                    f"{str(path)!r}: line {number} has times of its own: expected @timestamps false; write "
                    "such series as CSV, a row a moment"
                )
            parts = line.split(":")
            label = parts.pop().strip() if labelled else None
            if not parts:
                raise DataError(f"{str(path)!r}: line {number} has a label and no series")
            yield number, label, [[_value(cell) for cell in part.split(",")] for part in parts]


def _is_labelled(path: Path, lines: Iterator[tuple[int, str]]) -> bool:
    """Read what stands before the cases; whether each ends in its label."""
    labelled = False
    for _, line in lines:
        words = line.lower().split()
        if words[:1] == ["@data"]:
            return labelled
        if words[:1] == ["@classlabel"]:
            labelled = words[1:2] == ["true"]
    raise DataError(f"{str(path)!r} has no line @data: expected series as the UEA archive writes them")


def _value(cell: str) -> str | None:
    return None if cell.strip() in {"", "?"} else cell.strip()
