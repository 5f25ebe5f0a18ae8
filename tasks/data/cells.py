"""Cells as text: one conversion for every format and every column that is used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from protocol.plain_text import quoted

# What a file's decoder puts where bytes are none of its encoding; no text has it.
UNDECODABLE = "\udcff"

MESSAGES = "lists of messages: join each into one text first"
LISTS = "lists: join each into one text first"
OBJECTS = "objects: write the field that is meant as a column of its own"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as text, row by row; None for a cell that is missing or is no text. A raw one is of bytes.

    ``faults`` says why, by row from 0, where there is more to say than that nothing is there. ``refusal``
    is what the whole column holds instead of text.
    """

    values: tuple[Any, ...]
    faults: Mapping[int, str] = field(default_factory=dict)
    refusal: str | None = None


def column_of(cells: Iterable[Any], *, encoding: str, nested: bool = False) -> Column:
    """Cells of any kind as text. What one holds decides about that one alone.

    Text stays what is written. true and false stay so; whole numbers are written without a point, others as
    the shortest that reads the same (1.0, 0.1, 1e-07); what is no finite number is missing. Bytes are
    decoded. A list or an object is no text, and a column of nothing else is refused; in a ``nested`` column
    it is written as JSON.
    """
    values: list[str | None] = []
    faults: dict[int, str] = {}
    other: Any = None
    for row, cell in enumerate(cells):
        try:
            values.append(_as_json(cell, encoding) if nested else _text(cell, encoding))
        except ValueError as error:
            values.append(None)
            faults[row] = str(error)
            if isinstance(cell, list | dict):
                other = cell
    refusal = None
    if other is not None and not nested and not any(value is not None for value in values):
        refusal = _nested(other)
    return Column(values=tuple(values), faults=faults, refusal=refusal)


def arrow_column(
    column: Any, *, encoding: str, names: Sequence[str] | None, nested: bool = False
) -> Column:
    """An Arrow column of a type that is not refused, as text.

    ``names`` are those of a ClassLabel, whose numbers the cells are.
    """
    cells = _python_cells(column)
    if names is not None:
        cells = (_class_name(cell, names) for cell in cells)
    return column_of(cells, encoding=encoding, nested=nested)


class CellFault:
    """A cell of which it is known already why it is no text."""

    def __init__(self, why: str) -> None:
        self.why = why


def _text(cell: Any, encoding: str) -> str | None:
    """One cell as text, None if nothing is there. Raises ValueError saying what is there instead."""
    if cell is None:
        return None
    if isinstance(cell, str):
        return _checked(cell, encoding)
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float | np.floating):
        if math.isinf(cell):
            raise ValueError("holds an infinite number")
        return None if math.isnan(cell) else str(cell)
    return _other_text(cell, encoding)


def _as_json(cell: Any, encoding: str) -> str | None:
    if not isinstance(cell, list | dict):
        return _text(cell, encoding)
    try:
        return _checked(json.dumps(cell, ensure_ascii=False), encoding)
    except (TypeError, RecursionError):
        raise ValueError("holds something that JSON cannot, or a key twice") from None


def _other_text(cell: Any, encoding: str) -> str:
    if isinstance(cell, bytes):
        try:
            return _checked(cell.decode(encoding), encoding)
        except UnicodeError:
            raise ValueError(f"cannot be decoded by data.encoding={encoding!r}") from None
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, UUID):
        return str(cell)
    if isinstance(cell, CellFault):
        raise ValueError(cell.why)
    raise ValueError(f"holds {'a list' if isinstance(cell, list) else 'an object'}, and no text")


def _checked(text: str, encoding: str) -> str:
    if "\0" in text:
        raise ValueError("holds a zero byte")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            if UNDECODABLE in text:
                raise ValueError(f"cannot be decoded by data.encoding={encoding!r}") from None
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


def _class_name(cell: Any, names: Sequence[str]) -> Any:
    if cell is None or cell == -1:  # how datasets marks a row without a label
        return None
    return (
        names[cell]
        if 0 <= cell < len(names)
        else CellFault(f"holds a number beyond its {len(names)} names")
    )


def _nested(cell: Any) -> str:
    if isinstance(cell, dict):
        return OBJECTS
    return MESSAGES if cell and isinstance(cell[0], dict) and "content" in cell[0] else LISTS


def arrow_refusal(kind: Any, *, nested: bool = False) -> str | None:
    """What a column of this Arrow type holds, and what to do; None if it can be text."""
    import pyarrow.types as of

    if nested and of.is_nested(kind):
        return None
    if of.is_dictionary(kind) or of.is_run_end_encoded(kind):
        return arrow_refusal(kind.value_type)
    if hasattr(kind, "storage_type"):
        return None if kind.extension_name == "arrow.uuid" else arrow_refusal(kind.storage_type)
    if of.is_map(kind) or of.is_struct(kind) or of.is_union(kind):
        return OBJECTS
    if of.is_nested(kind):
        inner = kind.value_type
        said = of.is_struct(inner) and inner.get_field_index("content") >= 0
        return MESSAGES if said else LISTS
    return _time_refusal(kind)


def _time_refusal(kind: Any) -> str | None:
    import pyarrow.types as of

    if of.is_timestamp(kind) and not _is_zone(kind.tz):
        return f"times in the zone {quoted(kind.tz)}, which is not known here: write them in UTC first"
    if of.is_duration(kind) or of.is_interval(kind):
        return f"values of the type {kind}: write them as text or numbers first"
    return None


def _is_zone(name: str | None) -> bool:
    """Whether Arrow knows a time zone; None is none at all."""
    import pyarrow as pa

    if name is None:
        return True
    try:
        pa.array([0], pa.timestamp("s", tz=name)).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _python_cells(column: Any) -> Iterable[Any]:
    """The cells of an Arrow column whose type is not refused."""
    import pyarrow as pa
    import pyarrow.types as of

    kind = column.type
    if hasattr(kind, "storage_type") and kind.extension_name != "arrow.uuid":
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=kind.storage_type)
        return _python_cells(column)
    if of.is_dictionary(kind):
        return _categories(column)
    if of.is_temporal(kind):
        # ISO 8601 with a space, and no digits of a second that are zero.
        return [_written(cell) for cell in column.cast(pa.string()).to_pylist()]
    if of.is_float16(kind) or of.is_float32(kind):
        # As the shortest number that reads the same in its own precision.
        short = kind.to_pandas_dtype()
        return [None if cell is None else short(cell) for cell in column.to_pylist()]
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        # Not every writer minds that Arrow's text is UTF-8.
        if of.is_nested(kind):
            return [_whole(cell) for cell in column]
        found = [_utf8(cell) for cell in column.cast(pa.large_binary()).to_pylist()]
    return found


def _categories(column: Any) -> Iterator[Any]:
    """The categories of a dictionary column, each of them one object however many rows have it."""
    import pyarrow as pa

    for chunk in column.chunks:
        known = list(_python_cells(pa.chunked_array([chunk.dictionary])))
        for place in chunk.indices.to_pylist():
            yield None if place is None else known[place]


def _whole(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return CellFault("is no UTF-8")


def _utf8(cell: bytes | None) -> Any:
    try:
        return None if cell is None else cell.decode("utf-8")
    except UnicodeDecodeError:
        return CellFault("is no UTF-8")


def _written(moment: str | None) -> Any:
    """``2024-01-01 12:30:00.500000`` as ``2024-01-01 12:30:00.5``; Arrow cannot write all that it holds."""
    if moment is None:
        return None
    if moment.startswith("<"):
        return CellFault("holds a date that is out of range")
    return re.sub(r"(\.\d*?[1-9])0+(?!\d)|\.0+(?!\d)", r"\1", moment)
