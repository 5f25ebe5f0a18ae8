"""Columns of a table as numbers for a network: each by what the job says of it, and by nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from protocol.plain_text import quoted, some

# A row's cells: each column's name with the one way to write what it holds, "" for what is missing.
Cells: TypeAlias = tuple[tuple[str, str], ...]

# What people and programs write where nothing is known, in small letters.
_NOTHING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "?", "-", ".", "missing", "unknown"})


def number_in(cell: str | None) -> float | None:
    """The finite number that a cell holds; None for what is missing, infinite or no number.

    >>> number_in(" 1e3 "), number_in("inf"), number_in("1,5")
    (1000.0, None, None)
    """
    try:
        found = float(cell or "")
    except ValueError:
        return None
    return found if math.isfinite(found) and "_" not in (cell or "") else None


def plain_number(cell: str | None) -> str:
    """The one way to write the finite number that a cell holds; empty for what holds none.

    >>> plain_number(" 1e3 "), plain_number("-0"), plain_number("?")
    ('1000.0', '0.0', '')
    """
    value = number_in(cell)
    # Zero has two signs, and one meaning.
    return "" if value is None else repr(value + 0.0)


def is_nothing(cell: str | None) -> bool:
    """Whether a cell says that its value is not known: it is empty, or one of the usual words for it."""
    return cell is None or cell.strip().casefold() in _NOTHING


@dataclass(frozen=True, kw_only=True)
class FeatureColumns:
    """The columns that a network reads, in order of their names: a file's own order does not matter.

    ``numbers`` have a public range each, and ``categories`` a list of those that are known. Nothing here
    is learned from rows.
    """

    numbers: Mapping[str, tuple[float, float]]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.numbers, *self.categories}))

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return 2 * len(self.numbers) + sum(len(known) + 2 for known in self.categories.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of a network's inputs says, in words."""
        said: list[str] = []
        for name in self.names:
            if name in self.numbers:
                low, high = self.numbers[name]
                said += [f"{name}, {low:g} to {high:g} as -1 to 1 and cut off there; 0 if missing"]
            else:
                said += [f"{name} is {known}" for known in self.categories[name]]
                said += [f"{name} is another"]
            said += [f"{name} is missing"]
        return tuple(said)

    @property
    def columns(self) -> tuple[str, ...]:
        """Which column each of a network's inputs is of."""
        widths = ((name, len(self.categories.get(name, ()))) for name in self.names)
        return tuple(name for name, known in widths for _ in range(known + 2))

    def read(self, columns: Mapping[str, Sequence[str | None]]) -> tuple[Cells | None, ...]:
        """What each row holds, from the columns by name, row by row; None for a row that holds nothing."""
        found = [
            ["" if is_nothing(cell) else self._plain(name, cell) for cell in columns[name]]
            for name in self.names
        ]
        return tuple(
            tuple(zip(self.names, row, strict=True)) if any(row) else None
            for row in zip(*found, strict=True)
        )

    def remarks(self, columns: Mapping[str, Sequence[str | None]]) -> tuple[str, ...]:
        """Sentences on what is in columns and counts as missing, lies outside, or is not known."""
        odd: dict[str, int] = {}
        outside: dict[str, int] = {}
        others: dict[str, int] = {}
        for name in self.names:
            cells = [cell for cell in columns[name] if cell is not None and not is_nothing(cell)]
            if name in self.numbers:
                low, high = self.numbers[name]
                values = [number_in(cell) for cell in cells]
                odd[name] = values.count(None)
                outside[name] = sum(value is not None and not low <= value <= high for value in values)
            else:
                known = set(self.categories[name])
                others[name] = sum(cell.strip() not in known for cell in cells)
        kinds = {
            "cells that hold no finite number, and count as missing": odd,
            "numbers outside their range, which are cut off at its ends": outside,
            "categories that are not declared, which count as others": others,
        }
        return tuple(
            f"{what}: {some([f'{count} in {quoted(name)}' for name, count in counts.items() if count])}"
            for what, counts in kinds.items()
            if any(counts.values())
        )

    def encode(self, rows: Iterable[Cells | None]) -> NDArray[np.float32]:
        """Rows as float32[n, width]; a row that holds nothing becomes zeros.

        A number becomes its place in its range, from -1 to 1 and cut off there, and 0; or 0 and 1 if it is
        missing. A category becomes 1 at its place among those that are known, or at the place for others,
        or at that for missing ones. Raises DataError for columns that the data were read without.
        """
        whole = list(rows)
        held = np.array([row is not None for row in whole], bool)
        found = [dict(row) for row in whole if row is not None]
        # Rows of one data set have the same columns: what is missing here does not depend on any row.
        lacking = sorted(set(self.names) - found[0].keys()) if found else []
        if lacking:
            raise DataError(
                f"the job reads the columns {', '.join(map(quoted, lacking))}, which these data are read "
                "without: declare them in [data.ALIAS.numbers] or [data.ALIAS.categories]"
            )
        values = np.zeros((len(whole), self.width), np.float32)
        values[held] = self._encode(found)
        return values

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "numbers": {name: list(ends) for name, ends in sorted(self.numbers.items())},
            "categories": {name: list(known) for name, known in sorted(self.categories.items())},
        }

    def _encode(self, found: Sequence[Mapping[str, str]]) -> NDArray[np.float32]:
        values = np.zeros((len(found), self.width), np.float32)
        if not found:
            return values
        start = 0
        for name in self.names:
            cells = [row[name] for row in found]
            if name in self.numbers:
                values[:, start : start + 2] = [self._number(name, cell) for cell in cells]
                start += 2
            else:
                at = {category: place for place, category in enumerate(self.categories[name])}
                at |= {"": len(at) + 1}
                chosen = [at.get(cell, len(at) - 1) for cell in cells]
                values[np.arange(len(found)), start + np.array(chosen, np.int64)] = 1.0
                start += len(at) + 1
        return values

    def _plain(self, name: str, cell: str | None) -> str:
        if name in self.categories:
            return (cell or "").strip()
        return plain_number(cell)

    def _number(self, name: str, cell: str) -> tuple[float, float]:
        value = number_in(cell)
        if value is None:
            return 0.0, 1.0
        low, high = self.numbers[name]
        return 2.0 * ((min(max(value, low), high) - low) / (high - low)) - 1.0, 0.0
