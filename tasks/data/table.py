"""A data set's table: the columns that are used, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.plain_text import quoted
from tasks.data.cells import Column

_MOST_NAMED = 20  # columns that a message names


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns of a data set that are used.

    ``names`` are those of all columns. ``columns`` has the ones that were asked for, or none if one of them
    is not there, or is there twice: asking for that one says so. ``hint`` says why that may be.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Column] = field(default_factory=dict)
    hint: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values) if self.columns else 0

    def lacks(self, columns: Iterable[str]) -> bool:
        """Whether one of the columns is not there, or is there twice."""
        return any(self.names.count(name) != 1 for name in columns)

    def column(self, name: str, *, key: str) -> tuple[str | None, ...]:
        """A column that was asked for, row by row; None for a cell that is missing or is no text.

        Raises DataError naming the job's ``key`` if there is no such column, or two, or if it has no text.
        """
        return self._values(name, key)

    def raw_column(self, name: str, *, key: str) -> tuple[bytes | None, ...]:
        """A column that was asked for as bytes, row by row; None for a cell without any.

        Raises DataError as ``column`` does.
        """
        return self._values(name, key)

    def _values(self, name: str, key: str) -> tuple[Any, ...]:
        count = self.names.count(name)
        if not count:
            like = get_close_matches(name, self.names, n=1)
            meant = f"; did you mean {quoted(like[0])}?" if like else ""
            raise DataError(
                f"{key}={quoted(name)}: the data has no such column; it has {self._named()}"
                f"{meant}{self.hint}"
            )
        if count > 1:
            raise DataError(f"{key}={quoted(name)}: the data has {count} columns of that name: rename one")
        column = self.columns.get(name, Column(values=()))
        if column.refusal is not None:
            raise DataError(f"{key}={quoted(name)}: the column holds {column.refusal}")
        return column.values

    @property
    def faults(self) -> dict[int, str]:
        """Why rows, from 0, have a cell that is no text; those are not there that are merely empty."""
        found: dict[int, str] = {}
        for name, column in self.columns.items():
            for row, why in column.faults.items():
                found.setdefault(row, f"column {quoted(name)} {why}")
        return found

    def _named(self) -> str:
        more = len(self.names) - _MOST_NAMED
        shown = ", ".join(
            name if name.isprintable() and name else quoted(name) for name in self.names[:_MOST_NAMED]
        )
        return shown + (f", and {more} more" if more > 0 else "")


def joined(tables: Sequence[Table], *, files: Sequence[Path], columns: Sequence[str]) -> Table:
    """The rows of several files, one after another. Raises DataError if one lacks a column."""
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    if first.lacks(columns):
        return first
    for table, file in zip(tables, files, strict=True):
        if table.lacks(columns):
            lacking = next(name for name in columns if table.names.count(name) != 1)
            raise DataError(
                f"{str(file)!r} has {table.names.count(lacking)} columns named {quoted(lacking)}, and "
                f"{files[0].name!r} one: expected the same columns in all parts of a data set"
            )
    whole = {name: _end_to_end([table.columns[name] for table in tables], files) for name in columns}
    return Table(names=first.names, columns=whole)


def _end_to_end(parts: Sequence[Column], files: Sequence[Path]) -> Column:
    values: list[Any] = []
    faults: dict[int, str] = {}
    for part, file in zip(parts, files, strict=True):
        for row, why in part.faults.items():
            faults[len(values) + row] = f"{why} (row {row + 1} of {file.name!r})"
        values += part.values
    # What a part's type is refused for stands; what its cells are, only where no part has a text.
    anything = any(value is not None for value in values)
    refused = [part for part in parts if part.refusal is not None and not (anything and part.faults)]
    refusal = refused[0].refusal if refused else None
    return Column(values=tuple(values), faults=faults, refusal=refusal)
