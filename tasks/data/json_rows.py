"""JSON: an object a line, or an array of objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cells import CellFault, column_of
from tasks.data.file_kinds import open_text
from tasks.data.table import Table
from tasks.data.unpacking import check_room

_Row = dict[str, Any]
_EXPECTED = "expected an object a line, or one array of objects"


def read_json(path: Path, keys: SourceKeys, columns: Sequence[str], nested: Collection[str] = ()) -> Table:
    """Rows as JSON objects, whose keys are the columns; a row that lacks one has nothing there.

    Text stays what is written, whatever it looks like, and so do whole numbers. Raises DataError naming the
    line of what is no JSON.
    """
    names: dict[str, None] = {}
    kept: list[list[Any]] = [[] for _ in columns]
    for row in _rows(path, keys):
        names.update(dict.fromkeys(row))
        for cells, name in zip(kept, columns, strict=True):
            cells.append(row.get(name))
    if not names:
        raise DataError(f"{str(path)!r} has no rows: {_EXPECTED}")
    if not names.keys() >= set(columns):
        return Table(names=tuple(names))
    cells_of = zip(columns, kept, strict=True)
    return Table(
        names=tuple(names),
        columns={
            name: column_of(cells, encoding=keys.encoding, nested=name in nested)
            for name, cells in cells_of
        },
    )


def _rows(path: Path, keys: SourceKeys) -> Iterator[_Row]:
    """Each row; of an array, which is one value, all at once."""
    with open_text(path, keys) as file:
        number, first = 0, ""
        while not first:
            line = file.readline()
            if not line:
                return
            number += 1
            first = line.lstrip("\ufeff").strip()
        if first.startswith("["):
            parsed = _parse(path, first + "\n" + file.read(), number)
            for place, row in enumerate(parsed, start=1):
                yield _checked(path, row, f"row {place}")
            return
        yield _checked(path, _parse(path, first, number), f"line {number}")
        for later, line in enumerate(file, start=number + 1):
            check_room(path, later)
            if line.strip():
                yield _checked(path, _parse(path, line, later), f"line {later}")


def _parse(path: Path, text: str, number: int) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {number + error.lineno - 1}, character {error.colno}"
        raise DataError(f"{str(path)!r}: {where} is no JSON ({error.msg}): {_EXPECTED}") from None
    except RecursionError:
        raise DataError(f"{str(path)!r}: line {number} is nested too deeply: {_EXPECTED}") from None


def _checked(path: Path, row: Any, where: str) -> _Row:
    if not isinstance(row, dict):
        raise DataError(f"{str(path)!r}: {where} is no object: {_EXPECTED}")
    return row


def _object(pairs: list[tuple[str, Any]]) -> _Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                row[name] = CellFault("is written twice")
            seen.add(name)
    return row


# Digits stay digits: Python would refuse to make a number of more than 4300 of them.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=str)
