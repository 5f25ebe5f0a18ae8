"""What a spreadsheet would take for a formula is text; numbers stay numbers."""

from __future__ import annotations

import pytest

from runs.format_cells import harmless


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "  =", "\u3000="])
def test_no_text_begins_a_formula(start: str) -> None:
    assert harmless(f"{start}cmd|' /C calc'!A0").startswith("'")


@pytest.mark.parametrize("start", ["\t=", "\r=", "\n=", "\u200b=", "\x00=", "\ufeff="])
def test_what_cannot_be_seen_does_not_hide_one(start: str) -> None:
    found = harmless(f"{start}1+1")
    assert found[0] not in "=\t\r\n"
    assert found.isprintable()


def test_the_rest_is_as_it_was() -> None:
    assert [harmless(value) for value in ("run-1", -1.5, 7, None, "", "a=b")] == [
        "run-1",
        "-1.5",
        "7",
        "",
        "",
        "a=b",
    ]
