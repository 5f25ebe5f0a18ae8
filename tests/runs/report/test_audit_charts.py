"""An audit's charts: what the promise rules out is where theory has it, and what is drawn is all there."""

from __future__ import annotations

import math
import re

import pytest

from runs.report.audit_charts import bounds_chart, most_found, roc_chart, shares_chart

CURVES = {
    "reads updates": ((0.0, 0.0), (0.0, 0.25), (0.002, 0.5), (1.0, 1.0)),
    "has the model": ((0, 0), (1, 1)),
}


@pytest.mark.parametrize(
    ("rate", "epsilon", "delta", "expected"),
    [
        (0.0, 3.0, 1e-5, 1e-5),
        (0.01, 0.0, 0.0, 0.01),  # nothing may be told: guessing
        (0.01, math.log(5), 0.0, 0.05),
        (0.5, math.log(5), 0.0, 0.9),  # 1 - (1 - 0.5) / 5
        (1.0, 3.0, 1e-5, 1.0),
        (0.3, 2000.0, 0.0, 1.0),
    ],
)
def test_what_a_promise_leaves_to_an_attacker(
    rate: float, epsilon: float, delta: float, expected: float
) -> None:
    assert most_found(rate, epsilon=epsilon, delta=delta) == pytest.approx(expected, abs=1e-12)


def test_curves_are_labelled_and_told() -> None:
    svg = roc_chart(CURVES, epsilon=3.0, delta=1e-5, name="roc")
    assert svg.startswith("<svg viewBox=")
    assert "ROC curves of reads updates, has the model on logarithmic axes, and the area that ε = 3" in svg
    for label in ("reads updates", "has the model", "guessing", "ruled out by ε", "1 %", "100 %"):
        assert f">{label}</text>" in svg
    assert not re.search(r'(href|src)="(?!#)', svg)
    assert svg == roc_chart(CURVES, epsilon=3.0, delta=1e-5, name="roc")


def test_the_axis_begins_at_one_false_alarm() -> None:
    """Further left nothing was measured: there the promise would seem broken by whoever had luck once."""
    fine = {"sees all": ((0.0, 0.0), (0.0, 0.4), (2e-5, 0.5), (1.0, 1.0))}
    coarse = {"sees all": ((0.0, 0.0), (0.0, 0.4), (0.04, 0.5), (1.0, 1.0))}
    ticks = {"0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"}
    drawn = [
        {tick for tick in ticks if f">{tick}</text>" in roc_chart(one, epsilon=3.0, delta=1e-5, name="roc")}
        for one in (fine, coarse)
    ]
    assert drawn == [ticks - {"0.001 %"}, {"10 %", "100 %"}]


def test_a_bar_over_the_promise_has_another_colour() -> None:
    def colours(upper: float) -> int:
        svg = bounds_chart({"site, any": 1.0, "site, gaussian": 2.5}, upper=upper, name="bounds")
        assert ">site, gaussian</text>" in svg
        return len(re.findall(r"fill: #b34700", svg))

    assert colours(2.0) == colours(3.0) + 1


def test_without_a_promise_nothing_is_ruled_out() -> None:
    svg = roc_chart(CURVES, epsilon=math.inf, delta=1e-5, name="roc")
    assert "ruled out" not in svg
    assert "ROC curves of reads updates, has the model on logarithmic axes<" in svg


def test_shares_stand_beside_what_chance_finds() -> None:
    svg = shares_chart({"update, 1 text": (0.6875, 0.03), "sum, 1 text": (0.0, 0.0)}, name="words")
    assert "update, 1 text: 69 %; sum, 1 text: 0 %" in svg
    for label in ("update, 1 text", "sum, 1 text", "found", "by chance"):
        assert f">{label}</text>" in svg
