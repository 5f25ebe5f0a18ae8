"""The museum: each fault does what docs/museum.md says, and the audit says of it what stands there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.museum.exhibit import Exhibit, Shown
from tests.museum.exhibits import scalar_mask
from tests.museum.gallery import EXHIBITS
from tests.museum.page import counts, render, section

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "museum.md").read_text("utf-8")


def in_gallery(title: str) -> int:
    return next(number for number, one in enumerate(EXHIBITS, start=1) if one.title == title)


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda one: one.show.__module__.rpartition(".")[2])
def test_the_fault_is_found_what_is_right_passes_and_the_page_tells_it(
    exhibit: Exhibit, tmp_path: Path
) -> None:
    shown = exhibit.show(tmp_path)
    assert shown.flagged, shown.figures
    assert not shown.control, shown.figures
    assert section(in_gallery(exhibit.title), exhibit, shown) in PAGE, "run tools/museum_page.py"


def test_the_page_has_all_of_them_and_nothing_else() -> None:
    """Figures aside, which the test above holds one by one."""
    headings = [line for line in PAGE.splitlines() if line.startswith("## ")]
    assert headings == [f"## {number}. {one.title}" for number, one in enumerate(EXHIBITS, start=1)]
    made = counts(EXHIBITS)
    assert made["count"] >= 15
    assert made["always"] >= 12
    told = " ".join(PAGE.split())
    assert "Of {count} exhibits {found} are found by an audit alone".format(**made) in told
    assert "{always} by what is done before every run or by one command, {calls} by".format(**made) in told


def test_another_figure_would_change_the_page(tmp_path: Path) -> None:
    exhibit = scalar_mask.EXHIBIT
    shown = exhibit.show(tmp_path)
    other = replace(shown, figures={"shown": "9.9"})
    assert section(1, exhibit, other) != section(1, exhibit, shown)
    assert render([(exhibit, Shown(flagged=True, control=False, figures={"shown": "9.9"}))]) != PAGE
