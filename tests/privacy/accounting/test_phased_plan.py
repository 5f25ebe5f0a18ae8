"""Plans in phases: their ε is that of the composition, by whoever composes it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from privacy.accounting.mixed_steps import epsilon_of_mixed_by_order
from privacy.accounting.phased_plan import PhasedPlan, PhaseToPlan, make_phased_plan
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.accounting.second_accountant import Part, epsilon_by_fft, epsilon_of_parts
from privacy.canonical import canonical_json
from privacy.errors import PlanError
from privacy.ledger.entries import from_table, to_table
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism

PLAN = PhasedPlan(
    mechanism=Mechanism(name="gaussian", multiplier=0.9),
    clipping_norm=1.0,
    sampling_rate=0.06,
    steps=30,
    delta=1e-5,
    lengths=(10, 20),
    rates=(0.06, 0.02),
    multipliers=(1.4, 0.9),
)
WANTED: dict[str, Any] = {"epsilon": 3.0, "delta": 1e-5, "clipping_norm": 1.0, "examples": 9164}
HEADS, ALL = PhaseToPlan(steps=8, expected_batch_size=512), PhaseToPlan(steps=16, expected_batch_size=256)


def parts(plan: PhasedPlan, steps: int | None = None) -> list[Part]:
    kinds = plan.first_steps(plan.steps if steps is None else steps)
    return [Part(kind.mechanism, kind.sampling_rate, kind.count) for kind in kinds]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": (10, 21)},
        {"lengths": (30,)},
        {"lengths": (30, 0)},
        {"rates": (0.05, 0.02)},
        {"rates": (0.06, 0.0)},
        {"multipliers": (1.4, 1.0)},
        {"multipliers": (1.4, 0.8)},
        {"mechanism": NO_NOISE},
        {"mechanism": Mechanism(name="laplace", multiplier=0.9)},
        {"lengths": (), "rates": (), "multipliers": ()},
    ],
)
def test_phases_that_do_not_make_the_plan_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="expected"):
        replace(PLAN, **wrong)


@pytest.mark.parametrize(("first", "steps"), [(-1, 1), (0, 0), (29, 2), (30, 1)])
def test_steps_that_are_not_planned_are_refused(first: int, steps: int) -> None:
    with pytest.raises(PlanError, match="expected some of steps=30"):
        PLAN.steps_from(first, steps)


@pytest.mark.parametrize(
    ("first", "steps", "rate", "multiplier"),
    [(0, 1, 0.06, 1.4), (8, 2, 0.06, 1.4), (9, 2, 0.02, 1.4), (10, 1, 0.02, 0.9), (28, 2, 0.02, 0.9)],
)
def test_a_step_has_the_noise_of_its_place_in_the_count(
    first: int, steps: int, rate: float, multiplier: float
) -> None:
    """Over the border of two phases it is the lower rate and the larger noise of both."""
    found = PLAN.steps_from(first, steps)
    assert type(found) is SampledPlan
    assert (found.sampling_rate, found.mechanism.multiplier, found.steps) == (rate, multiplier, steps)
    assert (found.clipping_norm, found.delta) == (PLAN.clipping_norm, PLAN.delta)


@pytest.mark.parametrize("steps", [1, 10, 11, 30])
@pytest.mark.exhaustive(but=1)
def test_epsilon_is_that_of_dp_accountings_composition(steps: int) -> None:
    accountant = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for mechanism, rate, count in parts(PLAN, steps):
        gaussian = dp.GaussianDpEvent(mechanism.multiplier)
        accountant.compose(dp.PoissonSampledDpEvent(rate, gaussian), count)
    expected = accountant.get_epsilon(PLAN.delta)
    assert PLAN.epsilon_after(steps) == pytest.approx(expected, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 10, 11, 30])
def test_the_second_accountant_agrees(steps: int) -> None:
    """Both are upper bounds, the second less than 1 % or 0.0001 above the exact value."""
    found = epsilon_of_parts(parts(PLAN, steps), delta=PLAN.delta)
    assert PLAN.epsilon_after(steps) == pytest.approx(found, rel=0.012, abs=2e-3)


def test_a_composition_of_equal_steps_is_the_composition_that_there_was() -> None:
    equal = replace(PLAN, rates=(0.06, 0.06), multipliers=(0.9, 0.9))
    uniform = SampledPlan(
        mechanism=PLAN.mechanism, clipping_norm=1.0, sampling_rate=0.06, steps=30, delta=1e-5
    )
    assert equal.epsilon == pytest.approx(uniform.epsilon, rel=1e-6)
    again = epsilon_by_fft(mechanism=PLAN.mechanism, sampling_rate=0.06, steps=30, delta=1e-5)
    both = [Part(PLAN.mechanism, 0.06, 10), Part(PLAN.mechanism, 0.06, 20)]
    assert epsilon_of_parts(both, delta=1e-5) == pytest.approx(again, rel=1e-3)


def test_epsilon_grows_with_the_steps_and_with_less_noise() -> None:
    spent = [PLAN.epsilon_after(steps) for steps in range(31)]
    assert spent[0] == 0.0
    assert all(before < after for before, after in pairwise(spent))
    assert replace(PLAN, multipliers=(1.3, 0.9)).epsilon > PLAN.epsilon
    assert replace(PLAN, multipliers=(0.9, 0.9)).epsilon > replace(PLAN, multipliers=(1.3, 0.9)).epsilon


def test_whoever_takes_all_steps_for_equal_finds_no_less() -> None:
    taken_for_equal = SampledPlan(
        mechanism=PLAN.mechanism, clipping_norm=1.0, sampling_rate=PLAN.sampling_rate, steps=30, delta=1e-5
    )
    assert taken_for_equal.epsilon > PLAN.epsilon
    for order in (2, 8, 64):
        alone = sum(phase.steps * phase.renyi(order) for phase in PLAN.phases)
        assert PLAN.renyi_of(order) == pytest.approx(alone)
        assert PLAN.steps * PLAN.renyi(order) > alone


def test_where_nothing_can_be_composed_renyi_divergences_bound_it() -> None:
    tiny = replace(PLAN, delta=1e-18)
    assert tiny.epsilon == epsilon_of_mixed_by_order(tiny.first_steps(30), delta=1e-18)
    assert tiny.epsilon > PLAN.epsilon
    assert PLAN.epsilon_by("rdp") > PLAN.epsilon
    with pytest.raises(PlanError, match="prv"):
        PLAN.epsilon_by("prv")


def test_a_rate_of_one_has_one_distribution_for_both_ways() -> None:
    full = replace(PLAN, sampling_rate=1.0, rates=(1.0, 0.02), multipliers=(12.0, 0.9))
    expected = epsilon_of_parts(parts(full), delta=1e-5)
    assert full.epsilon == pytest.approx(expected, rel=0.012)
    assert full.chance_of_being_drawn == 1.0


@pytest.mark.parametrize("shares", [(None, None), (0.1, 0.9), (0.5, 0.5), (0.9, 0.1)])
def test_the_least_noise_for_an_epsilon_is_found(shares: tuple[float | None, float | None]) -> None:
    heads, whole = (replace(one, share=share) for one, share in zip((HEADS, ALL), shares, strict=True))
    plan = make_phased_plan([heads, whole], **WANTED)
    assert plan.epsilon <= 3.0
    # A multiplier is one part in 1,500 from the next, and ε about as much.
    assert plan.epsilon > 3.0 * (1 - 5e-3)
    assert (plan.lengths, plan.steps) == ((8, 16), 24)
    assert plan.rates == (512 / 9164, 256 / 9164)
    if shares[0] is None:
        assert len(set(plan.multipliers)) == 1
        return
    divergences = [
        length * math.log1p(rate**2 * math.expm1(1 / multiplier**2))
        for length, rate, multiplier in zip(plan.lengths, plan.rates, plan.multipliers, strict=True)
    ]
    assert divergences[0] / sum(divergences) == pytest.approx(shares[0])


def test_a_smaller_share_is_more_noise_and_leaves_less_for_nobody() -> None:
    few, many = (
        make_phased_plan([replace(HEADS, share=s), replace(ALL, share=1 - s)], **WANTED) for s in (0.2, 0.6)
    )
    assert few.multipliers[0] > many.multipliers[0]
    assert few.multipliers[1] < many.multipliers[1]
    plain = make_sampled_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=256,
        examples=9164,
        steps=16,
    )
    # What is left of the budget is less than all of it.
    assert few.multipliers[1] > plain.mechanism.multiplier
    assert few.phases[0].epsilon + few.phases[1].epsilon > few.epsilon > few.phases[1].epsilon


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"examples": 300}, "expected batch_size <= examples"),
        ({"epsilon": 0.0}, "expected epsilon > 0"),
        ({"delta": 0.9}, "the chance that an example is drawn at all"),
        ({"epsilon": 1e-6, "delta": 1e-9}, "no noise multiplier"),
    ],
)
def test_what_no_plan_fits_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        make_phased_plan([HEADS, ALL], **WANTED | changes)


def test_the_noise_of_a_sum_is_of_each_phases_steps() -> None:
    weights = np.arange(1.0, 31.0)
    expected = math.hypot(1.4 * np.linalg.norm(weights[:10]), 0.9 * np.linalg.norm(weights[10:]))
    assert PLAN.noise_of_sum(weights) == pytest.approx(expected)
    assert PLAN.noise_std == 1.4


def test_a_plan_is_written_and_read() -> None:
    table = json.loads(canonical_json(to_table(PLAN)))
    assert from_table(PhasedPlan, table) == PLAN
    assert PLAN.draws_if_ended(0) == 0
    assert PLAN.draws_if_ended(1) == PLAN.draws_if_ended(30) == 30
