"""What commands share in printing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table


def print_json(table: dict[str, Any]) -> None:
    """One JSON object and nothing else; an ε without bound is null."""
    print(json.dumps(table, allow_nan=False))


def printable(text: str) -> str:
    """Text that others wrote, without what a terminal would act on; lines stay lines."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def shown(name: str) -> str:
    """A name that others chose, on one line, such that Rich shows it and obeys nothing in it."""
    from rich.markup import escape

    return escape(printable(name).replace("\n", "\ufffd"))


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table without lines; the first ``left`` columns are words, which may break, the others numbers."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        words = number < left
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(heading, justify=justify, no_wrap=not words, overflow="fold")
    return table
