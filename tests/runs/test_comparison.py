"""A run beside its baselines: what is read of them, and what the report says."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import RunError
from runs.comparison import read_comparison
from runs.report.charts import comparison_chart
from runs.report.report import render_report
from tests.server.runs import make_compared, make_job, make_record, make_run


def test_without_comparisons_there_is_no_such_section(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert read_comparison(folder) is None
    assert 'id="comparison"' not in render_report(folder)


def test_runs_are_compared_side_by_side(tmp_path: Path) -> None:
    comparison = read_comparison(make_compared(tmp_path))
    assert comparison is not None
    assert [(row.title, comparison.told(row.value), row.epsilon, row.who) for row in comparison.rows] == [
        ("together", "67.4 %", "3.00", "2 sites"),
        ("without privacy", "70.0 %", "none", "2 sites"),
        ("best site alone", "55.0 %", "2.90", "north"),
        ("mean site alone", "50.0 %", "2.90", "of 2 sites"),
        ("most frequent label", "42.4 %", "", ""),
    ]
    assert [one.mix for one in comparison.alone] == ["97 % bad, 3 % good", "0 % bad, 100 % good"]
    table = comparison.as_table()
    assert (table["best_alone"], table["without_privacy"]) == (0.55, 0.7)
    assert table["mean_alone"] == pytest.approx(0.5)
    assert table["alone"]["south"] == {
        "value": 0.45,
        "epsilon": 2.9,
        "examples": 720,
        "labels": {"bad": 0, "good": 720},
    }


def test_the_report_says_what_is_gained_and_what_it_costs(tmp_path: Path) -> None:
    page = render_report(make_compared(tmp_path))
    assert "Privacy costs 2.6 points on these examples, in this run." in page
    assert "Federation gains 12 points over the best site alone, 17 points over the mean." in page
    assert "each site has the same ε, rounds, steps and learning rate" in page
    assert "97 % bad, 3 % good" in page


def test_the_bars_say_it_to_whoever_hears_the_page(tmp_path: Path) -> None:
    comparison = read_comparison(make_compared(tmp_path))
    assert comparison is not None
    drawn = comparison_chart(comparison.rows, comparison.measure)
    assert "Held-out accuracy: together 67.4 %, without privacy 70.0 %, best site alone 55.0 %" in drawn


def test_a_baseline_without_a_finished_round_is_left_out(tmp_path: Path) -> None:
    page = render_report(make_compared(tmp_path, free=0))
    assert "Federation gains" in page
    assert "Privacy costs" not in page
    assert ">without privacy<" not in page
    folder = make_compared(tmp_path / "other", free=0, alone=0)
    assert read_comparison(folder) is None
    assert 'id="comparison"' not in render_report(folder)


def test_privacy_that_cost_nothing_here_may_cost_something(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    best = [make_record(1, accuracy=0.1, epsilon={"north": None})]
    make_run(folder.path / "compare" / "without-privacy", None, best, examples_by_site={"north": 9})
    assert "No cost of privacy shows on these examples, in this run." in render_report(folder)


def test_what_gains_nothing_is_not_a_negative_gain(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    records = [make_record(1, accuracy=0.9, epsilon={"north": 2.9})]
    make_run(folder.path / "compare" / "alone" / "north", None, records, examples_by_site={"north": 9})
    assert "Federation gains nothing over the best site alone" in render_report(folder)


def test_where_less_is_better_the_best_has_the_least(tmp_path: Path) -> None:
    job = make_job(task="causal-lm", data={"source": "tweets.csv", "label": None, "labels": None})
    folder = make_run(tmp_path / "run", job)
    for site, loss in (("north", 2.0), ("south", 1.0)):
        records = [make_record(1, loss=loss, epsilon={site: 2.9})]
        place = folder.path / "compare" / "alone" / site
        make_run(place, job, records, examples_by_site={site: 9})
    comparison = read_comparison(folder)
    assert comparison is not None
    assert comparison.best is not None
    assert (comparison.measure.name, comparison.best.site) == ("perplexity", "south")


def test_of_many_labels_the_most_frequent_are_told(tmp_path: Path) -> None:
    folder = make_compared(tmp_path)
    (folder.path / "compare" / "labels.json").write_text('{"north": {"a": 1, "b": 4, "c": 2, "d": 3}}')
    comparison = read_comparison(folder)
    assert comparison is not None
    assert comparison.alone[0].mix == "40 % b, 30 % d, 20 % c"
    assert comparison.alone[1].labels == {}


def test_label_counts_that_are_none_are_told(tmp_path: Path) -> None:
    folder = make_compared(tmp_path)
    (folder.path / "compare" / "labels.json").write_text("{")
    with pytest.raises(RunError, match=r"labels\.json cannot be read"):
        read_comparison(folder)
