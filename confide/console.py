"""What commands share in printing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    """One JSON object, or a list of some, and nothing else; an ε without bound is null."""
    print(json.dumps(value, allow_nan=False))


def plain_console() -> Console:
    """A terminal where words stay words: no numbers in colour, and no ``:skull:`` turns into a picture.

    What others wrote must be ``shown``, so that none of it is markup.
    """
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, emoji=False)


def printable(text: str) -> str:
    """Text that others wrote, without what a terminal would act on; lines stay lines."""
    from protocol.plain_text import escaped

    return escaped(text, lines=True)


def shown(name: str) -> str:
    """A name that others chose, on one line, such that Rich shows it and obeys nothing in it."""
    from rich.markup import escape

    from protocol.plain_text import escaped

    return escape(escaped(name))


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table without lines; the first ``left`` columns are words, which may break, the others numbers."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        words = number < left
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(heading, justify=justify, no_wrap=not words, overflow="fold")
    return table
