"""Cells that hold files as bytes, alone or as ``datasets`` writes an image: a struct with its path."""

from __future__ import annotations

from typing import Any

from tasks.data.cells import Column

_BYTES, _PATH = "bytes", "path"  # fields of the struct
_NO_BYTES = "no bytes: expected what is in an image's file, or a struct with it as bytes"
_ONLY_PATH = "holds a path and no bytes"


def bytes_refusal(kind: Any) -> str | None:
    """What a column of this Arrow type holds in the place of bytes; None if it holds bytes."""
    import pyarrow.types as of

    if of.is_struct(kind):
        place = kind.get_field_index(_BYTES)
        kind = kind if place < 0 else kind.field(place).type
    tests = (of.is_binary, of.is_large_binary, of.is_fixed_size_binary, of.is_binary_view)
    return None if any(test(kind) for test in tests) else _NO_BYTES


def bytes_column(column: Any) -> Column:
    """An Arrow column that holds bytes, row by row, as they are; None where there are none."""
    values: list[bytes | None] = []
    faults: dict[int, str] = {}
    in_struct = hasattr(column.type, "get_field_index")
    has_path = in_struct and column.type.get_field_index(_PATH) >= 0
    for row, cell in enumerate(column):
        found = cell[_BYTES] if in_struct and cell.is_valid else cell
        values.append(found.as_py())
        # The path is not looked at: it may be no text.
        if has_path and cell.is_valid and not found.is_valid and cell[_PATH].is_valid:
            faults[row] = _ONLY_PATH
    return Column(values=tuple(values), faults=faults)
