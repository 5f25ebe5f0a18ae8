"""What a compared run ends with on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.comparison_view import print_comparison
from runs.comparison import read_comparison, save_labels
from tests.server.runs import make_compared, make_record, make_run


def test_the_numbers_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(read_comparison(make_compared(tmp_path)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["together", "67.4", "%", "3.00", "2", "sites"] in lines
    assert ["without", "privacy", "70.0", "%", "none", "2", "sites"] in lines
    assert ["best", "site", "alone", "55.0", "%", "2.90", "north"] in lines
    assert ["mean", "site", "alone", "50.0", "%", "2.90", "of", "2", "sites"] in lines
    assert ["south", "45.0", "%", "720", "0", "%", "bad,", "100", "%", "good"] in lines


def test_it_fits_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_compared(tmp_path)
    mix = {"negative": 31, "neutral": 33, "positive": 36}
    save_labels(folder, {"north": mix, "south": mix})
    print_comparison(read_comparison(folder))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_many_sites_have_no_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    for number in range(1, 14):
        name = f"site-{number}"
        records = [make_record(1, accuracy=0.3 + number / 100, epsilon={name: 2.9})]
        make_run(folder.path / "compare" / "alone" / name, None, records, examples_by_site={name: 9})
    comparison = read_comparison(folder)
    assert comparison is not None
    assert [one.site for one in comparison.alone][:3] == ["site-1", "site-2", "site-3"]
    print_comparison(comparison)
    said = capsys.readouterr().out
    assert "of 13 sites" in said
    assert "site-13" in said  # the best
    assert "site-12" not in said


def test_nothing_is_said_of_a_run_that_was_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(None)
    assert capsys.readouterr().out == ""
