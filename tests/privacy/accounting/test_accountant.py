"""ε against reference values and against other accountants."""

from __future__ import annotations

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.accountant import (
    epsilon_by_pld,
    epsilon_by_prv,
    epsilon_by_rdp,
    epsilon_pure,
    training_event,
)
from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

DELTA = 1e-5
# The published tolerance of the reference values.
RELATIVE = 0.005

# Computed with dp-accounting 0.6 and opacus 1.6: σ, q, steps, ε by RDP, PRV, PLD.
POISSON_GAUSSIAN = [
    (1.0, 0.01, 1000, 2.1014, 1.8384, 1.8282),
    (1.1, 0.004266666666666667, 14062, 2.5966, 2.3917, 2.3817),
    (0.8, 0.02, 500, 5.370, 4.678, 4.668),
]
# σ, q, steps, ε by PLD if one example is replaced by another, which is not what is accounted here.
REPLACE_ONE = [
    (1.0, 0.01, 1000, 2.8434),
    (1.1, 0.004266666666666667, 14062, 4.2214),
    (0.8, 0.02, 500, 6.241),
]
# Scale over sensitivity, q, steps, ε by PLD, ε at δ = 0.
LAPLACE = [(10.0, 1.0, 100, 4.2203, 10.0), (1.0, 0.01, 1000, 1.1238, 17.04)]
# Target ε, σ by PLD, σ by RDP, at q = 0.01 and 1000 steps.
CALIBRATED = [(1.0, 1.4146, 1.513), (3.0, 0.8136, 0.8646), (8.0, 0.5864, 0.616)]
# For 10 sites in 50 rounds, each in every round: z, ε by PLD, ε by RDP.
SITE_LEVEL = (4.24, 8.0, 8.61)
# Opacus computes PRV's ε to this, either way.
PRV_ERROR = 0.01


def gaussian(sigma: float) -> Mechanism:
    return Mechanism(name="gaussian", multiplier=sigma)


def laplace(scale: float) -> Mechanism:
    return Mechanism(name="laplace", multiplier=scale)


@pytest.mark.parametrize(("sigma", "rate", "steps", "rdp", "prv", "pld"), POISSON_GAUSSIAN)
def test_gaussian_reference_values(
    sigma: float, rate: float, steps: int, rdp: float, prv: float, pld: float
) -> None:
    training = {"mechanism": gaussian(sigma), "sampling_rate": rate, "steps": steps, "delta": DELTA}
    assert epsilon_by_pld(**training) == pytest.approx(pld, rel=RELATIVE)
    assert epsilon_by_rdp(**training) == pytest.approx(rdp, rel=RELATIVE)
    assert epsilon_by_prv(**training) == pytest.approx(prv, rel=RELATIVE)
    assert epsilon_by_pld(**training) <= epsilon_by_prv(**training) <= epsilon_by_rdp(**training)


@pytest.mark.parametrize(("sigma", "rate", "steps", "expected"), REPLACE_ONE)
def test_replacing_an_example_costs_more_than_is_accounted(
    sigma: float, rate: float, steps: int, expected: float
) -> None:
    event = training_event(mechanism=gaussian(sigma), sampling_rate=rate, steps=steps)

    def epsilon(adjacency: dp.NeighboringRelation) -> float:
        return PLDAccountant(adjacency, 1e-3).compose(event).get_epsilon(DELTA)

    replaced = epsilon(dp.NeighboringRelation.REPLACE_ONE)
    assert replaced == pytest.approx(expected, rel=RELATIVE)
    # Ours is zero-out's, which is that of adding or removing one.
    ours = epsilon_by_pld(mechanism=gaussian(sigma), sampling_rate=rate, steps=steps, delta=DELTA)
    assert ours == pytest.approx(epsilon(dp.NeighboringRelation.ADD_OR_REMOVE_ONE), rel=RELATIVE)
    assert ours < 0.8 * replaced


@pytest.mark.parametrize(("scale", "rate", "steps", "pld", "pure"), LAPLACE)
def test_laplace_reference_values(scale: float, rate: float, steps: int, pld: float, pure: float) -> None:
    training = {"mechanism": laplace(scale), "sampling_rate": rate, "steps": steps}
    assert epsilon_by_pld(**training, delta=DELTA) == pytest.approx(pld, rel=RELATIVE)
    assert epsilon_pure(**training) == pytest.approx(pure, rel=RELATIVE)
    assert pld <= epsilon_by_rdp(**training, delta=DELTA) <= pure


def test_single_gaussian_reference_values() -> None:
    """Balle and Wang 2018 (arXiv:1805.06530): σ = 1 costs ε = 4.377178, and σ = 3.730632 costs 1."""
    once = {"sampling_rate": 1.0, "steps": 1, "delta": DELTA}
    assert epsilon_by_pld(mechanism=gaussian(1.0), **once) == pytest.approx(4.377178, rel=RELATIVE)
    assert epsilon_by_pld(mechanism=gaussian(3.730632), **once) == pytest.approx(1.0, rel=RELATIVE)
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=1.0,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=7,
        examples=7,
        steps=1,
    )
    assert plan.mechanism.multiplier == pytest.approx(3.730632, rel=RELATIVE)


def test_site_level_reference_values() -> None:
    z, pld, rdp = SITE_LEVEL
    run = {"mechanism": gaussian(z), "sampling_rate": 1.0, "steps": 50, "delta": DELTA}
    assert epsilon_by_pld(**run) == pytest.approx(pld, rel=RELATIVE)
    assert epsilon_by_rdp(**run) == pytest.approx(rdp, rel=RELATIVE)


@pytest.mark.parametrize(("epsilon", "pld", "rdp"), CALIBRATED)
def test_calibration_reference_values(epsilon: float, pld: float, rdp: float) -> None:
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=epsilon,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=10,
        examples=1000,
        steps=1000,
    )
    assert plan.mechanism.multiplier == pytest.approx(pld, rel=RELATIVE)
    assert plan.epsilon <= epsilon

    def by_rdp(sigma: float) -> float:
        return epsilon_by_rdp(mechanism=gaussian(sigma), sampling_rate=0.01, steps=1000, delta=DELTA)

    assert by_rdp(rdp * (1 + RELATIVE)) < epsilon < by_rdp(rdp * (1 - RELATIVE))


@settings(max_examples=6, deadline=None)
@given(sigma=st.floats(0.7, 3.0), rate=st.floats(0.005, 0.3), steps=st.integers(1, 300))
def test_pld_is_tightest_and_prv_is_between(sigma: float, rate: float, steps: int) -> None:
    training = {"mechanism": gaussian(sigma), "sampling_rate": rate, "steps": steps}
    pld = epsilon_by_pld(**training, delta=DELTA)
    prv = epsilon_by_prv(**training, delta=DELTA)
    rdp = epsilon_by_rdp(**training, delta=DELTA)
    # Opacus returns the upper end of its estimate; our PLD is rounded up by at most a grid's 0.005, and
    # RDP may be the tighter of the two where ε is below either error.
    assert pld <= prv + 0.005
    assert prv <= rdp + 2 * PRV_ERROR
    assert pld <= rdp + 1e-6


@settings(max_examples=10, deadline=None)
@given(
    epsilon=st.floats(0.5, 10.0),
    rate=st.integers(1, 40),
    steps=st.integers(1, 400),
    laplace=st.booleans(),
)
def test_calibration_never_exceeds_its_target(epsilon: float, rate: int, steps: int, laplace: bool) -> None:
    plan = make_sampled_plan(
        mechanism="laplace" if laplace else "gaussian",
        epsilon=epsilon,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=rate,
        examples=100,
        steps=steps,
    )
    assert plan.epsilon_after(steps) <= epsilon
    # And it is not far below: two tolerances of the search less noise would exceed it.
    less = Mechanism(name=plan.mechanism.name, multiplier=plan.mechanism.multiplier * 0.995)
    spent = epsilon_by_pld(mechanism=less, sampling_rate=rate / 100, steps=steps, delta=DELTA)
    assert spent > epsilon * 0.98


def test_epsilon_grows_with_steps_and_starts_at_zero() -> None:
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=10,
        examples=100,
        steps=20,
    )
    curve = [plan.epsilon_after(steps) for steps in range(0, 21, 5)]
    assert curve[0] == 0.0
    assert curve == sorted(curve)
    assert curve[-1] <= 3.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expected_batch_size": 101}, "batch_size=101"),
        ({"epsilon": 1e-7, "delta": 1e-12, "steps": 10**6}, "no noise multiplier"),
    ],
)
def test_impossible_plans_are_refused(change: dict[str, float], named: str) -> None:
    plan = {
        "mechanism": "gaussian",
        "epsilon": 3.0,
        "delta": DELTA,
        "clipping_norm": 1.0,
        "expected_batch_size": 10,
        "examples": 100,
        "steps": 10,
    }
    with pytest.raises(PlanError, match=named):
        make_sampled_plan(**(plan | change))


def test_no_noise_has_infinite_epsilon() -> None:
    plan = make_sampled_plan(
        mechanism="none",
        epsilon=3.0,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=10,
        examples=100,
        steps=10,
    )
    assert plan.epsilon_after(0) == 0.0
    assert plan.epsilon_after(1) == float("inf")
    with pytest.raises(PlanError, match="without noise"):
        epsilon_by_pld(mechanism=plan.mechanism, sampling_rate=0.1, steps=1, delta=DELTA)


@settings(max_examples=8, deadline=None)
@given(scale=st.floats(0.5, 10.0), rate=st.floats(0.005, 1.0), steps=st.integers(1, 300))
def test_laplace_accountants_are_in_order(scale: float, rate: float, steps: int) -> None:
    training = {"mechanism": laplace(scale), "sampling_rate": rate, "steps": steps}
    pure = epsilon_pure(**training)
    rdp = epsilon_by_rdp(**training, delta=DELTA)
    # Laplace's largest loss is an atom, which PLD rounds up by a grid, 0.005 at most. An atom's mass is ½
    # at most, so that over 17 steps all of them together have one below δ.
    assert epsilon_by_pld(**training, delta=DELTA) <= rdp + 0.005 * min(steps, 17)
    assert rdp <= pure


def test_small_losses_are_not_drowned_by_the_grid() -> None:
    """σ = 10 at q = 0.001: a step's loss is 1e-4, and 10,000 of them cost what Rényi can nearly see."""
    training = {"mechanism": gaussian(10.0), "sampling_rate": 0.001, "steps": 10_000, "delta": DELTA}
    assert epsilon_by_pld(**training) == pytest.approx(0.0273, rel=0.02)


def test_accountants_refuse_what_they_do_not_know() -> None:
    training = {"sampling_rate": 0.1, "steps": 1}
    silent = Mechanism(name="none", multiplier=0.0)
    with pytest.raises(PlanError, match="'laplace'"):
        epsilon_by_prv(mechanism=laplace(1.0), **training, delta=DELTA)
    with pytest.raises(PlanError, match="'gaussian'"):
        epsilon_pure(mechanism=gaussian(1.0), **training)
    with pytest.raises(PlanError, match="without noise"):
        epsilon_by_rdp(mechanism=silent, **training, delta=DELTA)


def test_a_wrong_account_is_caught_by_the_reference_values() -> None:
    """Controls: a multiplier that is ⅔ of the true one, and a sample taken to be the whole data."""
    sigma, rate, steps, _, _, pld = POISSON_GAUSSIAN[0]
    louder = epsilon_by_pld(mechanism=gaussian(sigma / 1.5), sampling_rate=rate, steps=steps, delta=DELTA)
    quieter = epsilon_by_pld(mechanism=gaussian(sigma * 1.5), sampling_rate=rate, steps=steps, delta=DELTA)
    whole = epsilon_by_pld(mechanism=gaussian(sigma), sampling_rate=1.0, steps=steps, delta=DELTA)
    for wrong in (louder, quieter, whole):
        assert wrong != pytest.approx(pld, rel=20 * RELATIVE)
