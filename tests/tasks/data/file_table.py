"""The documentation's tables of files, made of those that the tests read.

``python -m tests.tasks.data.file_table`` writes them into docs/data.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.tasks.data.read_files import READ, FileCase
from tests.tasks.data.refused_files import REFUSED

DOCUMENT = Path(__file__).parents[3] / "docs" / "data.md"


def as_markdown() -> str:
    """Both tables, as they stand in the documentation."""
    read = [(case.what, f"`{case.name}`", _keys(case)) for case in READ]
    refused = [(case.what, f"`{case.name}`", _cell(case.said or "")) for case in REFUSED]
    return "\n\n".join(
        _markdown(title, heads, rows)
        for title, heads, rows in (
            ("## What is read", ("what it is", "such as", "keys of `[data]`"), read),
            ("## What is refused, and what is said", ("what it is", "such as", "what is said"), refused),
        )
    )


def _markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines_of = [" | ".join(row) for row in (heads, ["---"] * len(heads), *rows)]
    return f"{title}\n\n" + "\n".join(f"| {line} |" for line in lines_of)


def _keys(case: FileCase) -> str:
    return ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in case.keys.items())


def _cell(said: str) -> str:
    return said.replace("|", "\\|")


def documented() -> str:
    """docs/data.md with the tables of now between its marks."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition("<!-- table of files -->\n")
    _, _, after = rest.partition("<!-- end of the table -->")
    return f"{before}<!-- table of files -->\n{as_markdown()}\n<!-- end of the table -->{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(documented(), "utf-8")
