"""Skellam noise: reference values, and the bound against the exact divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skellam

from privacy.accounting.accountant import RENYI_ORDERS, epsilon_from_renyi, renyi
from privacy.accounting.skellam_loss import skellam_renyi, summed_epsilon
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.skellam import (
    IntegerSensitivity,
    rounded_sensitivity,
    scale_for_modulus,
)

DELTA = 1e-5
RELATIVE = 0.005
DIMENSION = 10**6
# Bits of the modulus, ε of one sum of 10 sites at noise multiplier 1.
BY_BITS = [(12, 7.00), (14, 4.903), (16, 4.7624), (20, 4.7528)]
# ε of the Gaussian mechanism at the same multiplier, by integer orders.
GAUSSIAN = 4.7527


def epsilon(*, bits: int, deviations: float = 4.0) -> float:
    scale = scale_for_modulus(
        bits=bits,
        sites=10,
        dimension=DIMENSION,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        deviations=deviations,
    )
    return summed_epsilon(
        sensitivity=rounded_sensitivity(l2_bound=scale, dimension=DIMENSION),
        releases={scale**2: 1},
        delta=DELTA,
    )


@pytest.mark.parametrize(("bits", "expected"), BY_BITS)
def test_reference_values(bits: int, expected: float) -> None:
    assert epsilon(bits=bits) == pytest.approx(expected, rel=RELATIVE)


def test_other_margins_miss_the_reference_values() -> None:
    """Control: what the rounding costs is seen, not only the Gaussian's ε."""
    for deviations in (3.0, 5.0):
        assert epsilon(bits=12, deviations=deviations) != pytest.approx(7.00, rel=0.1)


def test_skellam_approaches_the_gaussian_from_above() -> None:
    mechanism = Mechanism(name="gaussian", multiplier=1.0)
    spent = {a: renyi(mechanism=mechanism, sampling_rate=1.0, order=a) for a in RENYI_ORDERS}
    gaussian = epsilon_from_renyi(spent, delta=DELTA)
    assert gaussian == pytest.approx(GAUSSIAN, rel=1e-4)
    found = [epsilon(bits=bits) for bits, _ in BY_BITS]
    assert found == sorted(found, reverse=True)
    assert gaussian < found[-1]


@settings(max_examples=25, deadline=None)
@given(variance=st.floats(2.0, 400.0), shift=st.integers(1, 5), order=st.integers(2, 12))
def test_bound_holds_for_one_coordinate(variance: float, shift: int, order: int) -> None:
    """The exact divergence of the noise and its shift, summed over what has mass in float64."""
    reach = int(12 * math.sqrt(variance)) + shift * order + 20
    k = np.arange(-reach, reach + 1)
    logs = skellam.logpmf(k, variance / 2, variance / 2)
    shifted = skellam.logpmf(k - shift, variance / 2, variance / 2)
    kept = np.isfinite(logs) & np.isfinite(shifted)
    exact = np.logaddexp.reduce((order * shifted + (1 - order) * logs)[kept]) / (order - 1)
    sensitivity = IntegerSensitivity(l1=shift, l2=shift)
    found = skellam_renyi(sensitivity=sensitivity, variance=variance, order=order)
    assert exact <= found * (1 + 1e-6)
    # Control: with ⅔ of the standard deviation the bound would not hold as it is.
    assert skellam_renyi(sensitivity=sensitivity, variance=variance * 2.25, order=order) < found


def test_rounding_moves_integers_within_their_bound() -> None:
    """A vector on the bound, rounded stochastically, is within it at least as often as promised."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=400)
    vector *= 30.0 / np.linalg.norm(vector)
    rounded = np.floor(vector + rng.random((2000, 400)))
    sensitivity = rounded_sensitivity(l2_bound=30.0, dimension=400)
    within = np.linalg.norm(rounded, axis=1) <= sensitivity.l2
    assert within.mean() >= 1 - math.exp(-0.5)
    assert np.abs(rounded[within]).sum(axis=1).max() <= sensitivity.l1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: rounded_sensitivity(l2_bound=1.0, dimension=4, beta=1.0), r"beta=1\.0"),
        (lambda: rounded_sensitivity(l2_bound=0.0, dimension=4), r"l2_bound=0\.0"),
        (lambda: IntegerSensitivity(l1=1.0, l2=2.0), r"l1=1\.0"),
        (
            lambda: skellam_renyi(sensitivity=IntegerSensitivity(l1=1, l2=1), variance=0.0, order=2),
            r"variance=0\.0",
        ),
        (
            lambda: skellam_renyi(sensitivity=IntegerSensitivity(l1=1, l2=1), variance=1.0, order=1),
            "order=1",
        ),
        (
            lambda: scale_for_modulus(
                bits=3, sites=10, dimension=4, clipping_norm=1.0, noise_multiplier=1.0
            ),
            "bits=3",
        ),
    ],
)
def test_impossible_values_are_refused(call: object, named: str) -> None:
    with pytest.raises(PlanError, match=named):
        call()
