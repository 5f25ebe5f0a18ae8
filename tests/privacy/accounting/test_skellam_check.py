"""Skellam's second accountant: exact where it can be, below the first one everywhere, and near it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skellam

from privacy.accounting.skellam_check import skellam_epsilon_by_sum, skellam_renyi_by_sum
from privacy.accounting.skellam_loss import skellam_renyi, summed_epsilon
from privacy.errors import PlanError
from privacy.mechanisms.skellam import (
    IntegerSensitivity,
    rounded_sensitivity,
)

DELTA = 1e-5


@pytest.mark.parametrize("variance", [1e-4, -1.0, math.nan, math.inf])
def test_no_divergence_without_noise(variance: float) -> None:
    with pytest.raises(PlanError, match="variance"):
        skellam_renyi_by_sum(l1=1.0, l2=1.0, variance=variance, order=2)


def test_a_claim_that_would_take_forever_to_check_is_refused() -> None:
    with pytest.raises(PlanError, match="variance"):
        skellam_renyi_by_sum(l1=1e12, l2=1e12, variance=1.0, order=2)


@settings(max_examples=25, deadline=None)
@given(variance=st.floats(0.5, 4000.0), shift=st.integers(1, 6), order=st.integers(2, 12))
def test_one_coordinate_is_exact(variance: float, shift: int, order: int) -> None:
    """Against scipy's probabilities, which are of another form, summed over every integer with mass."""
    reach = int(14 * math.sqrt(variance)) + shift * order + 40
    k = np.arange(-reach, reach + 1)
    logs = skellam.logpmf(k, variance / 2, variance / 2)
    shifted = skellam.logpmf(k - shift, variance / 2, variance / 2)
    kept = np.isfinite(logs) & np.isfinite(shifted)
    exact = np.logaddexp.reduce((order * shifted + (1 - order) * logs)[kept]) / (order - 1)
    found = skellam_renyi_by_sum(l1=shift, l2=shift, variance=variance, order=order)
    # A moment of 1 + 1e-4 is left of ln's 1e-16 to a relative 1e-12; scipy's own are good to 1e-9.
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("order", [2, 8, 64])
def test_a_fine_grid_is_gaussian(order: int) -> None:
    """σ of 2^26 steps: ρ = α · shift² / 2σ², to a relative 1 / variance."""
    sigma, shift = 2.0**26, 2**23
    found = skellam_renyi_by_sum(l1=shift, l2=shift, variance=sigma**2, order=order)
    assert found == pytest.approx(order * (shift / sigma) ** 2 / 2, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    l2=st.floats(0.5, 300.0),
    dimension=st.integers(1, 10_000),
    multiplier=st.floats(0.3, 20.0),
    order=st.integers(2, 128),
)
def test_it_is_below_what_is_claimed(l2: float, dimension: int, multiplier: float, order: int) -> None:
    bound = l2 * min(math.sqrt(dimension), max(l2, 1.0))
    variance = max((multiplier * l2) ** 2, 0.05)
    lower = skellam_renyi_by_sum(l1=bound, l2=l2, variance=variance, order=order)
    upper = skellam_renyi(sensitivity=IntegerSensitivity(l1=bound, l2=l2), variance=variance, order=order)
    assert lower <= upper * (1 + 1e-6)


def test_many_small_steps_are_found_where_one_large_one_shows_less() -> None:
    """l2 = 1.9: one coordinate moves by 1, four move by 1 within l1 = l2² = 3.61, so three do."""
    one = skellam_renyi_by_sum(l1=1.9, l2=1.9, variance=20.0, order=4)
    three = skellam_renyi_by_sum(l1=3.61, l2=1.9, variance=20.0, order=4)
    assert three == pytest.approx(3 * one, rel=1e-12)
    assert skellam_renyi_by_sum(l1=0.9, l2=0.9, variance=20.0, order=4) == 0.0


@pytest.mark.parametrize(("scale", "short"), [(500.0, 2e-3), (2000.0, 1e-3), (2.0**23, 1e-6)])
def test_both_accountants_agree_where_the_grid_is_fine(scale: float, short: float) -> None:
    """50 sums at 4.24, and others with more noise: the distance is the rounding down of l2, 2 / l2 at most.

    That of 500 is 707 after rounding in 10^6 coordinates.
    """
    sensitivity = rounded_sensitivity(l2_bound=scale, dimension=10**6)
    planned = (4.24 * sensitivity.l2) ** 2
    for releases in ({planned: 50}, {planned: 20, 1.5 * planned: 20, 2 * planned: 10}):
        claimed = summed_epsilon(sensitivity=sensitivity, releases=releases, delta=DELTA)
        found = skellam_epsilon_by_sum(l1=sensitivity.l1, l2=sensitivity.l2, releases=releases, delta=DELTA)
        assert claimed * (1 - short) <= found <= claimed * (1 + 1e-9)
        # Controls: what an account may get wrong is far outside.
        for wrong in (2 / 3, 3 / 2):
            less = {variance * wrong**2: count for variance, count in releases.items()}
            other = skellam_epsilon_by_sum(l1=sensitivity.l1, l2=sensitivity.l2, releases=less, delta=DELTA)
            assert other != pytest.approx(claimed, rel=0.2)
    assert skellam_epsilon_by_sum(l1=1.0, l2=1.0, releases={1e12: 1}, delta=DELTA) < 1e-4
