"""Histograms: what one example is in them, by all neighbours of a tiny world, and what noise hides it."""

from __future__ import annotations

import itertools
import math

import dp_accounting as dp
import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.accounting.sampled_plan import make_histogram_plan
from privacy.errors import PlanError, PrivacyUnitError
from privacy.mechanisms.counting import ONE
from privacy.mechanisms.histograms import NOWHERE, count_places
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import fresh_source, keyed_source

SIZES = (2, 3, 2)


def places(*rows: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), len(SIZES))


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([[2, 0, 0]]),  # the first has two bins
        np.array([[0, -2, 0]]),
        np.array([[0, 0]]),  # a place is missing
        np.array([0, 0, 0]),
        np.array([[[0, 1], [0, 0], [0, 0]]]),  # two places in one histogram
        np.array([[0.0, 1.0, 0.0]]),
    ],
)
def test_places_that_are_none_are_refused(wrong: NDArray[np.int64]) -> None:
    with pytest.raises(PrivacyUnitError, match="place"):
        count_places(wrong, SIZES)
    with pytest.raises(PrivacyUnitError, match="place"):
        count_places(np.zeros((4, 0), np.int64), ())


def test_counts_are_exact() -> None:
    found = count_places(places((0, 2, 1), (0, 1, NOWHERE), (1, 2, 1)), SIZES)
    assert [counts.tolist() for counts in found.counts] == [
        [2 * ONE, ONE],
        [0, ONE, 2 * ONE],
        [0, 2 * ONE],
    ]
    assert found.sizes == SIZES
    quiet = Mechanism(name="gaussian", multiplier=1e-6).release(found, keyed_source(1, "test"))
    assert np.rint(quiet / ONE).tolist() == [2, 1, 0, 1, 2, 0, 2]
    assert (quiet % ONE).any()  # there is noise


def test_an_example_is_the_square_root_of_the_histograms() -> None:
    """All examples that there can be, each beside all others: the bound is reached and never passed."""
    everyone = list(itertools.product(*([NOWHERE, *range(size)] for size in SIZES)))
    others = places((0, 0, 0), (1, 2, 1))

    def counted(*rows: tuple[int, ...]) -> NDArray[np.int64]:
        return np.concatenate(count_places(np.concatenate([others, places(*rows)]), SIZES).counts)

    blank = counted((NOWHERE,) * len(SIZES))
    made_blank = [float(np.linalg.norm((counted(row) - blank) / ONE)) for row in everyone]
    replaced = [
        float(np.linalg.norm((counted(row) - counted(other)) / ONE))
        for row, other in itertools.product(everyone, repeat=2)
    ]
    assert max(made_blank) == pytest.approx(math.sqrt(len(SIZES)))
    assert max(replaced) == pytest.approx(math.sqrt(2 * len(SIZES)))
    steps = count_places(others, SIZES).steps
    assert 0 <= steps - max(made_blank) * ONE < 1


def test_another_norm_is_not_hidden() -> None:
    with pytest.raises(PrivacyUnitError, match="norm=1"):
        Mechanism(name="laplace", multiplier=1.0).release(
            count_places(places((0, 0, 0)), SIZES), fresh_source()
        )


@pytest.mark.parametrize("histograms", [1, 4])
def test_the_charge_is_that_of_one_gaussian(histograms: int) -> None:
    """By Balle and Wang 2018 (arXiv:1805.06530), theorem 8, and by dp-accounting."""
    plan = make_histogram_plan(histograms=histograms, epsilon=1.0, delta=1e-5)
    z = plan.mechanism.multiplier
    assert plan.noise_std == pytest.approx(z * math.sqrt(histograms))
    assert (plan.steps, plan.sampling_rate, plan.unit, plan.adjacency) == (1, 1.0, "example", "zero-out")
    by_library = dp.pld.PLDAccountant().compose(dp.GaussianDpEvent(z)).get_epsilon(1e-5)
    assert plan.epsilon == pytest.approx(by_library, rel=1e-3)
    assert plan.epsilon <= 1.0
    assert delta_of_gaussian(z, 1.0) <= 1e-5
    assert delta_of_gaussian(0.995 * z, 1.0) > 1e-5  # and there is no noise to spare


def delta_of_gaussian(z: float, epsilon: float) -> float:
    def below(value: float) -> float:
        return math.erfc(-value / math.sqrt(2)) / 2

    return below(0.5 / z - epsilon * z) - math.exp(epsilon) * below(-0.5 / z - epsilon * z)


def test_no_noise_for_no_epsilon() -> None:
    with pytest.raises(PlanError, match="epsilon"):
        make_histogram_plan(histograms=2, epsilon=0.0, delta=1e-5)


@pytest.mark.statistics
def test_the_noise_is_as_wide_as_planned() -> None:
    """The deviation of 40,000 draws is off by 1/√80,000 of it, and once in 10^5 times by 4.5 of that."""
    mechanism, size = Mechanism(name="gaussian", multiplier=2.0), 40_000
    histograms = count_places(np.array([[0, 0, 0, 0]], np.int64), (size, 1, 1, 1))
    noisy = mechanism.release(histograms, fresh_source())[1:size] / ONE
    found, off = noisy.std() / (2.0 * math.sqrt(4)), 4.5 / math.sqrt(2 * size)
    assert 1 - off < found < 1 + off
    assert not 1 - off < found * 1.5 < 1 + off
