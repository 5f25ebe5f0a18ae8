"""A run beside its baselines: what the report says of them."""

from __future__ import annotations

from pathlib import Path

from runs.report.comparison import read_comparison
from runs.report.report import render_report
from tests.server.runs import make_compared, make_record, make_run


def test_without_comparisons_there_is_no_such_section(tmp_path: Path) -> None:
    assert 'id="comparison"' not in render_report(make_run(tmp_path / "run"))


def test_comparisons_are_shown_side_by_side(tmp_path: Path) -> None:
    folder = make_compared(tmp_path)
    page = render_report(folder)
    assert [run.title for run in read_comparison(folder)] == [
        "This run",
        "Without privacy",
        "One site alone",
    ]
    assert "Privacy costs 2.6 points of accuracy: accuracy is 67.4 % with it and 70.0 %" in page
    assert "Federation gains 12 points of accuracy: accuracy is 67.4 % together and 55.0 %" in page


def test_a_comparison_without_a_finished_round_is_left_out(tmp_path: Path) -> None:
    page = render_report(make_compared(tmp_path, free=0))
    assert "Federation gains" in page
    assert "Privacy costs" not in page
    assert ">Without privacy<" not in page
    folder = make_compared(tmp_path / "other", free=0, alone=0)
    assert read_comparison(folder) == ()
    assert 'id="comparison"' not in render_report(folder)


def test_what_costs_nothing_is_not_a_negative_cost(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    make_run(folder.path / "compare" / "one-site", None, [make_record(1, accuracy=0.9)])
    assert "Federation gains nothing here: accuracy is 67.4 %" in render_report(folder)
