"""The plan: what it refuses, and what is read from it."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from privacy.accounting.accountant import training_event
from privacy.accounting.sampled_plan import SampledPlan, make_count_plan, make_sampled_plan
from privacy.errors import PlanError
from privacy.ledger.budget import make_budget
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism
from privacy.mechanisms.rng import keyed_source

PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=1.0),
    clipping_norm=0.5,
    sampling_rate=0.1,
    steps=20,
    delta=1e-5,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clipping_norm", 0.0),
        ("clipping_norm", -1.0),
        ("clipping_norm", math.inf),
        ("clipping_norm", math.nan),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.001),
        ("sampling_rate", math.nan),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", math.nan),
        ("steps", 2**53 + 1),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", math.nan),
    ],
)
def test_impossible_plans_are_refused(field: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"got {field}="):
        replace(PLAN, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", math.nan),
        ("delta", 0.0),
        ("steps", 0),
        ("clipping_norm", 0.0),
        ("batch_size", 0),
        ("batch_size", 101),
    ],
)
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "none"])
def test_no_noise_is_sought_for_an_impossible_plan(mechanism: str, field: str, value: float) -> None:
    asked = {"epsilon": 3.0, "delta": 1e-5, "clipping_norm": 1.0, "batch_size": 10, "steps": 10} | {
        field: value
    }
    batch_size = asked.pop("batch_size")
    with pytest.raises(PlanError, match=f"{field}={value}"):
        make_sampled_plan(mechanism=mechanism, expected_batch_size=batch_size, examples=100, **asked)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.steps = 1
    assert (PLAN.unit, PLAN.adjacency) == ("example", "zero-out")


def test_event_is_what_the_accountant_composes() -> None:
    step = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.0))
    event = training_event(mechanism=PLAN.mechanism, sampling_rate=0.1, steps=20)
    assert event == dp.SelfComposedDpEvent(step, 20)
    # dp-accounting's own grid is 1e-4, ours is coarser and rounds up by under 0.5 %.
    expected = PLDAccountant().compose(event).get_epsilon(PLAN.delta)
    assert PLAN.epsilon == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "none"])
def test_noise_std_is_that_of_what_is_drawn(name: str) -> None:
    mechanism = NO_NOISE if name == "none" else Mechanism(name=name, multiplier=1.7)
    plan = replace(PLAN, mechanism=mechanism)
    steps = mechanism.noise(200_000, steps=STEPS, source=keyed_source(5, name))
    drawn = steps * (plan.clipping_norm / STEPS)
    # The sample deviation of n draws has a relative error of √((kurtosis - 1) / 4n): 0.25 % for Laplace's
    # kurtosis of 6, so that 2 % is eight of them; ⅔ and 3⁄2 of the deviation are far outside.
    assert float(np.std(drawn)) == pytest.approx(plan.noise_std, rel=0.02)
    expected = {"gaussian": 0.85, "laplace": 0.85 * math.sqrt(2), "none": 0.0}[name]
    assert plan.noise_std == pytest.approx(expected, rel=1e-12)


def test_epsilon_is_that_of_all_steps_by_pld() -> None:
    assert PLAN.epsilon == PLAN.epsilon_after(PLAN.steps) == PLAN.epsilon_by("pld")
    # Without sampling it is 28.
    assert PLAN.epsilon < PLAN.epsilon_by("prv") < PLAN.epsilon_by("rdp") < 1.2 * PLAN.epsilon
    laplace = replace(PLAN, mechanism=Mechanism(name="laplace", multiplier=1.0))
    assert laplace.epsilon < laplace.epsilon_by("rdp")
    with pytest.raises(PlanError, match="prv accountant does not know laplace noise"):
        laplace.epsilon_by("prv")


def test_nothing_is_protected_without_noise() -> None:
    plan = replace(PLAN, mechanism=NO_NOISE)
    assert plan.epsilon == plan.epsilon_by("rdp") == plan.epsilon_by("prv") == math.inf
    assert plan.noise_std == 0.0
    assert "nothing is protected" in plan.cautions(100)[0]


def test_a_delta_that_lets_one_example_out_is_cautioned_against() -> None:
    assert PLAN.cautions(99_999) == ()
    (caution,) = PLAN.cautions(100_000)
    assert "delta=1e-05" in caution
    assert caution.endswith("Choose a smaller delta.")


@pytest.mark.parametrize("epsilon", [*np.geomspace(1e-4, 100.0, 97), 0.49, 0.1, 3.0])
def test_a_count_costs_what_was_asked_for_and_no_more(epsilon: float) -> None:
    """1/(1/ε) may be above ε by a rounding, and a budget of just ε would then refuse."""
    plan = make_count_plan(epsilon=float(epsilon), delta=1e-3)
    cost = 1 / plan.mechanism.multiplier
    assert epsilon * (1 - 4e-16) <= cost <= epsilon
    assert (plan.mechanism.name, plan.clipping_norm) == ("laplace", 1.0)
    assert (plan.sampling_rate, plan.steps) == (1.0, 1)


def test_a_count_spends_no_delta() -> None:
    """Where δ is large beside ε too: half of a budget's δ may be the training's already."""
    for epsilon in (1e-4, 0.49, 100.0):
        cost = make_budget(epsilon=1.0, delta=2e-3).cost(make_count_plan(epsilon=epsilon, delta=1e-3))
        assert (cost.epsilon, cost.delta) == (round(epsilon * 1e9), 0)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 1e-320])
def test_no_count_is_planned_for_an_impossible_epsilon(epsilon: float) -> None:
    with pytest.raises(PlanError):
        make_count_plan(epsilon=epsilon, delta=1e-5)
