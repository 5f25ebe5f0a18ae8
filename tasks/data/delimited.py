"""CSV and its kin: text between separators, one row a line or several."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cells import column_of
from tasks.data.file_kinds import open_text, suffix_of
from tasks.data.table import Table
from tasks.data.unpacking import check_room

_OTHERS = ";\t|,"
_TOLD = re.compile(r"\ufeff?sep=(.)\s*", re.IGNORECASE)  # a line before the header, for Excel


def read_delimited(path: Path, keys: SourceKeys, columns: Sequence[str]) -> Table:
    """A CSV file after RFC 4180, with any separator. Cells stay what is written: 01 is not 1.

    Line ends may be CR, LF or both, and stand in quoted cells. Lines without anything are no rows. Raises
    DataError for a row with more or fewer cells than the header, and for quotes that do not close.
    """
    separator = keys.separator or ("\t" if suffix_of(path) == ".tsv" else ",")
    with open_text(path, keys) as file:
        first = file.readline()
        told = _TOLD.fullmatch(first)
        if told is not None:
            separator, first = keys.separator or told[1], file.readline()
        hint = _hint(first, separator)
        rows = _rows(path, csv.reader(chain([first], file), delimiter=separator, strict=True), hint)
        header = next(rows, None)
        if header is None:
            raise DataError(f"{str(path)!r} is empty")
        names = tuple(name.lstrip("\ufeff") for name in header)
        table = Table(names=names, hint=hint)
        if table.lacks(columns):
            return table
        places = [names.index(name) for name in columns]
        # Only what is used is kept.
        kept = [[row[place] for place in places] for row in rows]
    cells = zip(*kept, strict=True) if kept else [()] * len(places)
    found = zip(columns, cells, strict=True)
    return Table(names=names, columns={n: column_of(c, encoding=keys.encoding) for n, c in found})


def _rows(path: Path, reader: Iterator[list[str]], hint: str) -> Iterator[list[str]]:
    """The header and the rows, all as long as it; ``hint`` is for a header that cannot be read."""
    csv.field_size_limit(sys.maxsize)
    header: list[str] | None = None
    number = 0  # of a row, the header's being 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            where = "the header" if header is None else f"row {number + 1}"
            raise DataError(
                f"{str(path)!r}: {where}: a quoted cell does not close, or goes on after it has; quotes in "
                f'quoted cells are written twice: ""{hint if header is None else ""}'
            ) from None
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = row
        else:
            number += 1
            if len(row) != len(header):
                raise DataError(
                    f"{str(path)!r}: row {number}: expected {len(header)} cells as in the header, got "
                    f"{len(row)}; put cells in quotes that have a separator or a line end in them"
                )
            check_room(path, number)
        yield row


def _hint(line: str, separator: str) -> str:
    """What to try if the first line is no header of these columns."""
    other = next((one for one in _OTHERS if one in line), None)
    if separator in line or other is None:
        return ""
    written = "\\t" if other == "\t" else other
    return f'; if its cells stand between other characters, set data.separator = "{written}"'
