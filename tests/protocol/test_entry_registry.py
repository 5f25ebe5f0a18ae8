"""What a job names is listed or installed, and nothing else is imported for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from privacy.errors import JobError, UnknownNameError
from protocol.entry_registry import Registry

GROUP = "confide.fruits"
FRUITS = Registry[object](key="fruit", group=GROUP, listed={"pear": "fractions:Fraction"})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings an apple, a fig that cannot be had, and a pear of its own."""
    info = tmp_path / "fruits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fruits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\npear = decimal:Decimal\nfig = missing_fruits:FIG\napple = decimal:Context\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_listed_names_come_first_and_win(installed: None) -> None:
    from decimal import Context
    from fractions import Fraction

    assert FRUITS.names() == ("pear", "apple", "fig")
    assert FRUITS.find("pear") is Fraction
    assert FRUITS.find("apple") is Context


@pytest.mark.parametrize(
    "name",
    ["plum", "this", "this:s", "", "Pear", 3, None, ["pear"]],
)
def test_what_nobody_lists_or_installs_is_not_imported(installed: None, name: object) -> None:
    sys.modules.pop("this", None)
    with pytest.raises(UnknownNameError, match=r"^fruit: expected one of pear, apple, fig, got "):
        FRUITS.find(name)
    assert "this" not in sys.modules


def test_listing_imports_nothing(installed: None) -> None:
    assert "fig" in FRUITS.names()  # whose module does not exist
    with pytest.raises(ModuleNotFoundError, match="missing_fruits"):
        FRUITS.find("fig")


def test_an_unknown_name_is_a_mistake_in_a_job_and_what_pydantic_collects() -> None:
    assert issubclass(UnknownNameError, JobError)
    assert issubclass(UnknownNameError, ValueError)


def test_a_name_is_shown_and_not_obeyed() -> None:
    with pytest.raises(UnknownNameError) as caught:
        FRUITS.find("\x1b[2J\u202e")
    assert str(caught.value).endswith(r"got '\x1b[2J\u202e'")
