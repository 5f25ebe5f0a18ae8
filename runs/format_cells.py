"""A value as a cell that a spreadsheet shows and does not obey."""

from __future__ import annotations

from protocol.plain_text import escaped

# What begins a formula, and their wide forms, which some spreadsheets take for the same.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def harmless(value: object) -> str:
    """A value as text; where a spreadsheet would take it for a formula, an apostrophe stands before it.

    What cannot be seen, line breaks and tabs among them, is written as escapes. None is an empty cell.

    >>> harmless("=HYPERLINK(1)"), harmless(" @x"), harmless(3.5), harmless(None)
    ("'=HYPERLINK(1)", "' @x", '3.5', '')
    """
    if value is None:
        return ""
    text = escaped(str(value))
    return f"'{text}" if isinstance(value, str) and text.lstrip().startswith(_FORMULA) else text
