"""Estimates from noisy histograms: right without noise, and as far off as they say with it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runs.estimates import Estimate, best_of, mean, quantile, rise, share_of, total
from runs.told_statistics import NoisyHistogram, Statistics
from tasks.asked_statistics import Asked

CUTS = (0.0, 10.0, 20.0, 30.0)
# Below 0, three bins, and from 30 on.
COUNTS = np.array([0.0, 10.0, 20.0, 10.0, 0.0])


def test_what_noise_hides_is_not_told() -> None:
    hidden = np.array([1.0, -2.0, 3.0, 1.0, 0.5])
    assert quantile(hidden, CUTS, 0.5, std=2.0) is None
    assert mean(hidden, CUTS, std=2.0) is None
    assert share_of(Estimate(value=1.0, std=1.0), total(hidden, std=2.0)) is None
    assert not Estimate(value=3.0, std=1.0).told
    assert Estimate(value=3.1, std=1.0).told


@pytest.mark.parametrize(("share", "value"), [(0.25, 10.0), (0.5, 15.0), (0.75, 20.0), (0.875, 25.0)])
def test_quantiles_without_noise(share: float, value: float) -> None:
    found = quantile(COUNTS, CUTS, share, std=1e-9)
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.low <= found.value <= found.high
    assert found.high - found.low <= 20.0


def test_a_quantile_beyond_the_edges_is_infinite() -> None:
    outside = np.array([10.0, 0.0, 0.0, 0.0, 30.0])
    low, high = (quantile(outside, CUTS, share, std=1e-9) for share in (0.1, 0.9))
    assert low is not None
    assert high is not None
    assert (low.value, high.value) == (-math.inf, math.inf)
    assert (low.low, high.high) == (-math.inf, math.inf)
    histogram = NoisyHistogram(asked=Asked(kind="lengths", cuts=CUTS), counts=outside, std=1e-9)
    assert (histogram.range, histogram.longest) == (None, None)


def test_a_mean_is_of_the_middles_of_bins() -> None:
    found = mean(np.array([4.0, 10.0, 20.0, 10.0, 4.0]), CUTS, std=0.5)
    assert found is not None
    assert found.value == pytest.approx((0 * 4 + 5 * 10 + 15 * 20 + 25 * 10 + 30 * 4) / 48)
    middles = np.array([0.0, 5.0, 15.0, 25.0, 30.0]) - found.value
    assert found.std == pytest.approx(0.5 * math.sqrt(float(middles @ middles)) / 48)


def test_the_best_of_two_is_nearer_to_the_surer() -> None:
    found = best_of([Estimate(value=100.0, std=1.0), Estimate(value=110.0, std=3.0)])
    assert found.value == pytest.approx(101.0)
    assert found.std == pytest.approx(math.sqrt(0.9))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3.0, 1.0, 2.0], [2.0, 2.0, 2.0]),
        ([1.0, 4.0, 2.0, 5.0], [1.0, 3.0, 3.0, 5.0]),
        ([1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_isotonic_regression(values: list[float], found: list[float]) -> None:
    assert rise(np.array(values)).tolist() == found


def told(*histograms: NoisyHistogram) -> Statistics:
    return Statistics(run="run", epsilon=1.0, delta=1e-5, spent={"a": 1.0}, histograms=histograms)


def test_suggestions_are_made_of_what_is_told() -> None:
    labels = NoisyHistogram(
        asked=Asked(kind="labels", names=("no", "yes")), counts=np.array([30.0, 10.0]), std=1.0
    )
    lengths = NoisyHistogram(asked=Asked(kind="lengths", cuts=CUTS), counts=COUNTS, std=1.0)
    age = NoisyHistogram(
        asked=Asked(kind="numbers", column="age", cuts=CUTS),
        counts=np.array([0.0, 0.0, 20.0, 18.0, 0.0, 2.0]),
        std=0.01,
    )
    found = told(labels, lengths, age)
    assert found.suggested["data.max_length"] == 30
    assert found.suggested["data.numbers"] == {"age": [10.0, 30.0]}
    # The labels alone say 40 too, whatever weight the others have.
    assert found.suggested["class_weights"] == {"no": pytest.approx(2 / 3), "yes": pytest.approx(2.0)}
    assert age.missing == Estimate(value=2.0, std=0.01)
    assert found.examples.value == pytest.approx(40.0)
    assert found.unclear == ()


def test_a_label_that_noise_hides_makes_no_weights() -> None:
    labels = NoisyHistogram(
        asked=Asked(kind="labels", names=("no", "yes", "never")),
        counts=np.array([30.0, 10.0, 1.0]),
        std=1.0,
    )
    found = told(labels)
    assert found.unclear == ("never",)
    assert found.suggested == {}


@pytest.mark.statistics
def test_a_quantile_is_in_its_interval() -> None:
    """95 % of the time: of 400 runs 20 are off on average, and 45 or more once in a million."""
    generator = np.random.default_rng(7)
    counts = np.array([0.0, 40.0, 90.0, 60.0, 30.0, 15.0, 5.0, 0.0])
    cuts = tuple(float(edge) for edge in range(7))
    for share in (0.25, 0.5, 0.95):
        true = quantile(counts, cuts, share, std=1e-9)
        assert true is not None
        off = 0
        for _ in range(400):
            found = quantile(counts + generator.normal(0.0, 6.0, len(counts)), cuts, share, std=6.0)
            off += found is None or not found.low <= true.value <= found.high
        assert off < 45
