"""Rényi divergences of a step: against dp-accounting, closed forms, and what must hold of any."""

from __future__ import annotations

import math

import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.accountant import renyi, training_event
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism


def gaussian(sigma: float) -> Mechanism:
    return Mechanism(name="gaussian", multiplier=sigma)


def laplace(scale: float) -> Mechanism:
    return Mechanism(name="laplace", multiplier=scale)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("order", [2, 3, 8, 64, 256])
def test_renyi_is_what_dp_accounting_computes(sigma: float, rate: float, order: int) -> None:
    accountant = RdpAccountant([order])
    accountant.compose(training_event(mechanism=gaussian(sigma), sampling_rate=rate, steps=1))
    # Theirs subtracts from 1 in float64, and so is good to about 1e-16 / q² at small rates.
    expected = accountant._rdp[0]
    assert renyi(mechanism=gaussian(sigma), sampling_rate=rate, order=order) == pytest.approx(
        expected, rel=1e-6, abs=1e-13
    )


def test_renyi_at_full_rate_is_in_closed_form() -> None:
    """Mironov 2017 (arXiv:1702.07476), table II: α / 2σ², and Laplace's."""
    for order in (2, 7, 256):
        found = renyi(mechanism=gaussian(0.7), sampling_rate=1.0, order=order)
        assert found == pytest.approx(order / (2 * 0.7**2), rel=1e-9)
        t = 1 / 0.7
        up, down = (order - 1) * t, -order * t
        moment = (order * math.exp(up) + (order - 1) * math.exp(down)) / (2 * order - 1)
        found = renyi(mechanism=laplace(0.7), sampling_rate=1.0, order=order)
        assert found == pytest.approx(math.log(moment) / (order - 1), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(1e-3, 1e4),
    rate=st.floats(1e-8, 1.0),
    order=st.integers(2, 256),
    is_laplace=st.booleans(),
)
def test_renyi_keeps_its_order(scale: float, rate: float, order: int, is_laplace: bool) -> None:
    """It grows with the order and the rate, falls with the noise, and is finite and positive."""
    noise = laplace if is_laplace else gaussian
    found = renyi(mechanism=noise(scale), sampling_rate=rate, order=order)
    assert 0.0 < found < math.inf
    slack = 1 + 1e-9
    assert found <= renyi(mechanism=noise(scale), sampling_rate=rate, order=order + 1) * slack
    assert found <= renyi(mechanism=noise(scale), sampling_rate=min(1.0, 1.1 * rate), order=order) * slack
    assert renyi(mechanism=noise(scale * 1.1), sampling_rate=rate, order=order) <= found * slack


@settings(max_examples=30, deadline=None)
@given(
    shifts=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6),
    scale=st.floats(0.1, 10.0),
    order=st.integers(2, 32),
)
def test_one_coordinate_is_the_worst_for_laplace(shifts: list[float], scale: float, order: int) -> None:
    """A shift of L1 norm 1 over several coordinates has a smaller divergence than in one."""
    spread = sum(
        renyi(mechanism=laplace(scale * sum(shifts) / shift), sampling_rate=1.0, order=order)
        for shift in shifts
    )
    assert spread <= renyi(mechanism=laplace(scale), sampling_rate=1.0, order=order) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mechanism": Mechanism(name="none", multiplier=0.0)}, "without noise"),
        ({"order": 1}, "order=1"),
        ({"order": 2.5}, "order=2.5"),
        ({"sampling_rate": 0.0}, "sampling_rate=0.0"),
        ({"sampling_rate": 1.01}, "sampling_rate=1.01"),
    ],
)
def test_impossible_renyi_is_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        renyi(**({"mechanism": gaussian(1.0), "sampling_rate": 0.5, "order": 2} | change))
