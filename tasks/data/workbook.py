"""Excel's workbooks: one sheet, its first row the header."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile, ZipFile

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.plain_text import quoted
from tasks.data.cells import CellFault, column_of
from tasks.data.table import Table
from tasks.data.unpacking import check_unpacked, most_unpacked


def read_workbook(path: Path, keys: SourceKeys, columns: Sequence[str]) -> Table:
    """A sheet of an ``.xlsx`` file; ``data.split`` names it if there are several.

    Cells are the values that Excel last computed. Whole numbers have no point, days are written 2024-01-31.
    Rows without anything are none. Raises DataError without openpyxl, which the extra ``excel`` brings.
    """
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise DataError(
            f"{str(path)!r} takes openpyxl, which is not installed: pip install 'confide[excel]', or save "
            "it as .csv"
        ) from None
    try:
        with ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        check_unpacked(path, size, most=most_unpacked())
        book = load_workbook(path, read_only=True, data_only=True)
        return _read_book(book, path, keys, columns)
    except (BadZipFile, ParseError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{str(path)!r} cannot be read: it is no workbook, or is damaged") from error


def _read_book(book: Any, path: Path, keys: SourceKeys, columns: Sequence[str]) -> Table:
    try:
        rows = _rows(_sheet(book, path, keys.split))
        header = next(rows, None)
        if header is None:
            raise DataError(f"{str(path)!r} has no rows")
        names = tuple("" if cell is None else str(cell) for cell in header)
        table = Table(names=names)
        if table.lacks(columns):
            return table
        places = [names.index(name) for name in columns]
        kept = [[_value(row[place] if place < len(row) else None) for place in places] for row in rows]
    finally:
        book.close()
    cells = zip(*kept, strict=True) if kept else [()] * len(places)
    found = zip(columns, cells, strict=True)
    return Table(names=names, columns={n: column_of(c, encoding=keys.encoding) for n, c in found})


def _sheet(book: Any, path: Path, split: str | None) -> Any:
    # What is no more than a chart has no rows, and Excel begins books with sheets that nobody fills.
    names = [sheet.title for sheet in book.worksheets if next(_rows(sheet), None) is not None]
    if split is None and len(names) <= 1:
        return book[names[0]] if names else book.worksheets[0]
    if split is None:
        raise DataError(f"{str(path)!r} has several sheets: set data.split to one of {_named(names)}")
    if split not in names:
        raise DataError(f"data.split={split!r}: {str(path)!r} has no such sheet; it has {_named(names)}")
    return book[split]


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:10]))


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # which not every program writes as they are
    return (row for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row))


def _value(cell: Any) -> Any:
    """A cell as what ``column_of`` knows."""
    if isinstance(cell, dt.datetime):
        # Excel knows no days: one is midnight.
        return str(cell.date() if cell.time() == dt.time() else cell)
    if isinstance(cell, dt.date | dt.time):
        return str(cell)
    if isinstance(cell, dt.timedelta):
        return CellFault("holds a duration, and no text")
    if isinstance(cell, str) and cell in _ERRORS:
        return None
    return cell


# What Excel shows where a formula has no value.
_ERRORS = {"#N/A", "#VALUE!", "#REF!", "#DIV/0!", "#NUM!", "#NAME?", "#NULL!"}
