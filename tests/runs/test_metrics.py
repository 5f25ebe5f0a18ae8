"""Metrics add up, keep what noise did to them, and come back as they were written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.errors import RunError
from privacy.mechanisms.counting import MOST, ONE
from runs.metrics import Metrics, SiteMetrics, read_metrics
from runs.report.report import render_report
from tests.server.runs import make_job, make_record, make_run

NORTH = SiteMetrics(right=70 * ONE, examples=100)
SOUTH = SiteMetrics(right=90 * ONE, examples=300)
METRICS = Metrics.told(0.5, {"north": NORTH, "south": SOUTH})
# Under masks nobody knows one site's.
TOGETHER = Metrics(
    epsilon=0.5, total=SiteMetrics(right=160 * ONE, examples=400), told_by=("north", "south")
)
# A sum in other units is not taken for one in these.
IN_WHOLES = b'{"sites": {"a": {"right": 70.3, "examples": 100}}, "epsilon": 1}'
NO_METRICS = [b"", b"[]", b"{}", b'{"sites": {"a": {"right": 1}}, "epsilon": 1}', IN_WHOLES]
ASKED = make_job(metrics={"epsilon": 0.5})


def test_the_pooled_mean_counts_examples_not_sites() -> None:
    assert (NORTH.mean, SOUTH.mean) == (0.7, 0.3)
    assert METRICS.mean == 160 / 400
    # Two Laplace variables of scale 2 have variance 16 together.
    assert math.isclose(METRICS.deviation, 4 / 400)


@pytest.mark.parametrize(("right", "mean"), [(-3, 0.0), (103, 1.0), (0, 0.0), (25, 0.25), (100, 1.0)])
def test_a_mean_is_a_share_whatever_the_noise(right: int, mean: float) -> None:
    assert SiteMetrics(right=right * ONE, examples=100).mean == mean


def test_the_pooled_mean_is_of_the_sums_before_they_are_cut() -> None:
    """Cutting each site's first would move the whole: noise below zero at one makes up for another's."""
    low = SiteMetrics(right=-50 * ONE, examples=100)
    high = SiteMetrics(right=100 * ONE, examples=100)
    assert Metrics.told(0.1, {"a": low, "b": high}).mean == 0.25


def test_sums_say_what_single_counts_add_up_to() -> None:
    assert (TOGETHER.mean, TOGETHER.deviation) == (METRICS.mean, METRICS.deviation)
    assert METRICS.told_by == TOGETHER.told_by
    assert METRICS.total == TOGETHER.total
    assert TOGETHER.sites == {}


def test_no_counts_are_no_metrics() -> None:
    with pytest.raises(ValueError, match="examples=0"):
        Metrics.told(0.5, {})


@pytest.mark.parametrize(
    ("right", "examples"),
    [(math.nan, 1), (math.inf, 1), (1.0, 1), (2**63, 1), (-(2**63) - 1, 1), (1, 0), (1, 2**33), (True, 1)],
)
def test_what_no_site_can_have_counted_is_refused(right: int, examples: int) -> None:
    with pytest.raises(ValueError, match="expected an int64 sum over 1 to 8589934591 examples"):
        SiteMetrics(right=right, examples=examples)


def test_metrics_are_read_as_they_were_written() -> None:
    assert read_metrics(METRICS.content) == METRICS
    table = json.loads(METRICS.content)
    assert (table["mean"], table["epsilon"], table["sites"]["north"]["mean"]) == (0.4, 0.5, 0.7)
    # All bits of an int64, which a float64 would not keep.
    odd = Metrics.told(0.5, {"north": SiteMetrics(right=MOST - 2, examples=100)})
    assert read_metrics(odd.content) == odd


def test_what_steps_of_their_own_spent_is_read_as_it_was_written() -> None:
    own = replace(TOGETHER, personal=NORTH, spent={"north": 2.5, "south": 1.25})
    assert read_metrics(own.content) == own
    assert json.loads(own.content)["personal"]["spent"] == {"north": 2.5, "south": 1.25}


def test_sums_are_read_as_they_were_written() -> None:
    assert read_metrics(TOGETHER.content) == TOGETHER
    table = json.loads(TOGETHER.content)
    assert table["sites"] == {}
    assert table["told_by"] == ["north", "south"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("right", 160 * ONE + 1), ("examples", 401), ("told_by", ["north"]), ("told_by", ["north", "west"])],
)
def test_a_total_that_is_not_its_sites_is_refused(key: str, value: object) -> None:
    table = json.loads(METRICS.content) | {key: value}
    with pytest.raises(RunError, match="do not add up to its total"):
        read_metrics(json.dumps(table).encode())


@pytest.mark.parametrize("content", NO_METRICS)
def test_metrics_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(RunError, match=r"metrics\.json cannot be read"):
        read_metrics(content)


def test_a_folder_without_metrics_has_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert folder.metrics is None
    folder.save_metrics(METRICS, {})
    assert folder.metrics == METRICS
    assert folder.receipts("metrics") == {}


def test_the_report_says_what_the_sites_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ASKED)
    folder.save_metrics(METRICS, {})
    page = render_report(folder)
    assert "On the sites’ own 400 examples" in page
    assert "accuracy is 40.0 %, 30.0 % to 70.0 % by site" in page
    assert "for ε = 0.50, which moves the whole by about ±1.0 points" in page
    assert "and at most 0.50 more on metrics" in page


def test_the_report_says_of_sums_what_they_tell(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ASKED)
    folder.save_metrics(TOGETHER, {})
    page = render_report(folder)
    assert "On the sites’ own 400 examples" in page
    assert "accuracy is 40.0 %." in page
    assert "by site" not in page.partition("On the sites’ own")[2].partition("</p>")[0]


def test_the_report_says_when_the_metrics_are_lost(tmp_path: Path) -> None:
    assert "it is not known: run.log says why" in render_report(make_run(tmp_path / "lost", ASKED))
    unfinished = make_run(tmp_path / "unfinished", ASKED, [make_record(1)])
    assert "after the last round" in render_report(unfinished)


def test_the_report_is_silent_where_nobody_asked(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "run"))
    assert "sites’ own" not in page
    assert 'id="metrics"' not in page
    assert "on metrics" not in page
