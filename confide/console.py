"""What commands share in printing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_json(table: dict[str, Any]) -> None:
    """One JSON object and nothing else; an ε without bound is null."""
    print(json.dumps(table, allow_nan=False))


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table without lines; the first ``left`` columns are words, the others numbers."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    return table
