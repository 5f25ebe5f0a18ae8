"""The filter: what it admits, what a plan costs, and what a plan that ends early gives back."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.sampled_plan import SampledPlan
from privacy.accounting.second_accountant import renyi_by_quadrature
from privacy.errors import PlanError
from privacy.ledger.budget import DELTAS, NATS, Budget, Spent, deltas, make_budget, nats
from privacy.mechanisms.clipping import clip
from privacy.mechanisms.mechanism import Mechanism
from tests.privacy.ledgers import CENTRAL_PLAN, SITE_PLAN, make_plan

SPENT = st.builds(
    Spent,
    renyi=st.integers(0, 10 * NATS),
    epsilon=st.integers(0, 10 * NATS),
    delta=st.integers(0, DELTAS // 10**4),
)
BUDGETS = st.builds(
    Budget,
    epsilon=st.floats(0.01, 50.0),
    delta=st.sampled_from([1e-3, 1e-5, 1e-6, 3e-7, 1e-9]),
    order=st.integers(2, 256),
)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.inf},
        {"epsilon": math.nan},
        {"epsilon": 1e7},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"order": 1},
        {"order": 257},
        {"order": 2.5},
    ],
)
def test_a_budget_that_promises_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=next(iter(change))):
        Budget(**({"epsilon": 3.0, "delta": 1e-5, "order": 8} | change))


@pytest.mark.parametrize(
    "change",
    [{"rate": 1.01}, {"rate": 0.0}, {"delta": 1.0}, {"delta": 0.0}, {"steps": 0}, {"multiplier": math.nan}],
)
def test_a_plan_that_cannot_be_has_no_cost(change: dict[str, float]) -> None:
    with pytest.raises(PlanError):
        make_plan(**change)


def test_only_a_noisy_plan_has_a_cost() -> None:
    budget = make_budget(epsilon=3.0, delta=1e-5)
    silent = SampledPlan(
        mechanism=Mechanism(name="none", multiplier=0.0),
        clipping_norm=1.0,
        sampling_rate=0.1,
        steps=1,
        delta=1e-7,
    )
    with pytest.raises(PlanError, match="without noise"):
        budget.cost(silent)


@pytest.mark.parametrize("order", [2, 8, 64])
def test_a_plan_of_sites_costs_an_example_twice_the_sensitivity(order: int) -> None:
    """By hand: noise of multiplier 24 against 2C is that of multiplier 12, whose ρ is α / 2 · 12²."""
    budget = Budget(epsilon=3.0, delta=1e-5, order=order)
    half = make_plan(multiplier=12.0, rate=1.0, steps=4)
    exact = budget.cost(half)
    central = budget.cost(CENTRAL_PLAN)
    assert central == exact
    shared = budget.cost(SITE_PLAN)
    # A few / variance of 24000² by order. By plan it is by integer orders, which loses to privacy loss
    # distributions by a few percent.
    assert exact.renyi <= shared.renyi <= exact.renyi * (1 + 1e-6) + 1
    assert exact.epsilon <= shared.epsilon <= 1.15 * exact.epsilon
    assert shared.delta == exact.delta == deltas(1e-7)
    # Control: the site's own loss is a quarter by order.
    own = SITE_PLAN.steps * SITE_PLAN.renyi(order) * NATS
    assert shared.renyi == pytest.approx(4 * own, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), clipping=st.floats(0.1, 100.0), size=st.integers(1, 30))
def test_two_updates_of_a_site_are_no_further_apart_than_is_charged(
    seed: int, clipping: float, size: int
) -> None:
    """The proof's one line, tried on updates with an example and with its blank, which are on the bound."""
    rng = np.random.default_rng(seed)
    pair = [clip(rng.choice([-1e3, 1e3], size), bound=clipping, norm=2).reals for _ in range(2)]
    pair += [-pair[0]]
    charged = replace(CENTRAL_PLAN, clipping_norm=clipping).as_charged().clipping_norm
    assert charged == 2 * clipping
    # The norms are clipping · (1 + 1e-12) at most.
    assert np.linalg.norm(pair[0] - pair[1]) <= charged * (1 + 2e-12)
    # Control: one clipping norm is not enough.
    assert np.linalg.norm(pair[0] - pair[2]) > 1.9 * clipping


@given(budget=BUDGETS, spent=SPENT, more=SPENT)
def test_what_is_admitted_with_more_is_admitted_with_less(
    budget: Budget, spent: Spent, more: Spent
) -> None:
    if budget.admits(spent + more):
        assert budget.admits(spent)
    assert budget.epsilon_of(spent) <= budget.epsilon_of(spent + more)


@given(budget=BUDGETS, spent=SPENT)
def test_a_set_of_plans_is_admitted_by_either_rule_and_by_nothing_else(
    budget: Budget, spent: Spent
) -> None:
    """In exact arithmetic on what the numbers were written as."""
    epsilon, half = Fraction(repr(budget.epsilon)), Fraction(repr(budget.delta)) / 2
    by_plan = Fraction(spent.epsilon, NATS) <= epsilon and Fraction(spent.delta, DELTAS) <= half
    by_order = spent.renyi <= budget.renyi_limit
    admitted = budget.admits(spent)
    assert admitted == (by_order or by_plan)
    # What is shown is in floats: below 60, within 1e-13 of what decides, and that is in units of 1e-9.
    over = budget.epsilon_of(spent) - budget.epsilon
    assert over < 2e-9 if admitted else over > -2e-9


def test_each_limit_is_sharp() -> None:
    budget = Budget(epsilon=3.0, delta=1e-5, order=8)
    too_much = 10 * NATS
    assert budget.admits(Spent(renyi=budget.renyi_limit, epsilon=too_much, delta=DELTAS))
    assert not budget.admits(Spent(renyi=budget.renyi_limit + 1, epsilon=too_much))
    assert budget.admits(Spent(renyi=too_much, epsilon=3 * NATS, delta=5 * 10**12))
    assert not budget.admits(Spent(renyi=too_much, epsilon=3 * NATS + 1, delta=5 * 10**12))
    assert not budget.admits(Spent(renyi=too_much, epsilon=3 * NATS, delta=5 * 10**12 + 1))


@given(budget=BUDGETS)
def test_the_limit_by_order_is_half_of_delta(budget: Budget) -> None:
    """Proposition 12 of Canonne, Kamath and Steinke, solved for δ, gives back what the limit was made from.

    The limit is rounded down to 1e-9 nats and computed from terms under 1e3 in float64, so it lies within
    1e-9 and 1e-12 of the exact one; the exponent multiplies that by (α - 1), under 256.
    """
    loss, order = budget.renyi_limit / NATS, budget.order
    log_delta = (order - 1) * (loss - budget.epsilon) + order * math.log1p(-1 / order) - math.log(order - 1)
    short = math.log(budget.delta / 2) - log_delta
    assert -256e-12 * 10 <= short <= 256 * 2e-9


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["gaussian", "laplace"]),
    order=st.integers(2, 64),
    rate=st.sampled_from([0.01, 0.3, 1.0]),
    multiplier=st.floats(0.5, 50.0),
    steps=st.integers(1, 5),
    more=st.integers(1, 5),
)
def test_the_cost_by_order_adds_up(
    name: str, order: int, rate: float, multiplier: float, steps: int, more: int
) -> None:
    """Each cost is rounded up to 1e-9 nats once, so two of them exceed the whole's by at most one unit."""
    budget = Budget(epsilon=3.0, delta=1e-5, order=order)
    # Only the order's cost is asked for, but a plan's ε comes with it: a large δ makes that quick.
    costs = [
        budget.cost(make_plan(name=name, multiplier=multiplier, rate=rate, steps=count, delta=1e-3)).renyi
        for count in (steps, more, steps + more)
    ]
    assert 0 <= costs[0] + costs[1] - costs[2] <= 1
    exact = steps * renyi_by_quadrature(
        mechanism=Mechanism(name=name, multiplier=multiplier), sampling_rate=rate, order=order
    )
    # The quadrature's 1e-7 relative or 1e-12 absolute; the cost adds 1e-9 relative and one unit.
    assert exact * (1 - 2e-7) - 1e-11 <= costs[0] / NATS <= exact * (1 + 2e-7) + 2e-9


@given(cost=SPENT, of=st.integers(1, 10_000), data=st.data())
def test_ending_early_gives_back_no_more_than_the_steps_not_taken(
    cost: Spent, of: int, data: st.DataObject
) -> None:
    taken = data.draw(st.integers(1, of))
    kept = cost.share(taken, of=of)
    assert kept.renyi * of >= cost.renyi * taken
    assert (kept.renyi - 1) * of < cost.renyi * taken
    assert (kept.epsilon, kept.delta) == (cost.epsilon, cost.delta)
    assert cost.share(of, of=of) == cost
    assert cost.share(0, of=of) == Spent()
    assert cost.share(taken - 1, of=of).renyi <= kept.renyi


@given(parts=st.lists(SPENT, max_size=6), data=st.data())
def test_sums_are_exact_in_any_order(parts: list[Spent], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(parts))
    total = sum(parts, Spent())
    assert sum(shuffled, Spent()) == total
    for part in parts:
        total = total - part
    assert total == Spent()


@given(st.floats(0.0, 1e6), st.floats(1e-18, 1.0))
def test_rounding_is_upwards_and_by_less_than_a_unit(loss: float, delta: float) -> None:
    for units, unit, value in ((nats(loss), NATS, loss), (deltas(delta), DELTAS, delta)):
        assert 0 <= Fraction(units, unit) - Fraction(Decimal(repr(value))) < Fraction(1, unit)
    assert deltas(1e-5) == 10**13


def test_an_infinite_loss_is_more_than_any_budget() -> None:
    most = make_budget(epsilon=1e6, delta=1e-5)
    assert not most.admits(Spent(renyi=nats(math.inf), epsilon=nats(math.inf)))


def test_one_noisy_count_costs_no_delta() -> None:
    budget = make_budget(epsilon=3.0, delta=1e-5)
    single = budget.cost(make_plan(name="laplace", multiplier=8.0, rate=1.0, steps=1))
    assert (single.epsilon, single.delta) == (NATS // 8, 0)
    trained = budget.cost(make_plan(name="laplace", multiplier=20.0, rate=0.2, steps=1000))
    assert trained.delta == deltas(1e-7)
    assert trained.epsilon < nats(1000 / 20.0) / 10
    # One Gaussian release has no ε at δ = 0.
    gaussian = make_plan(multiplier=8.0, rate=1.0, steps=1)
    found = budget.cost(gaussian)
    assert (found.epsilon, found.delta) == (nats(gaussian.epsilon), deltas(1e-7))
    assert found.epsilon < NATS


def test_the_default_order_lets_gaussian_noise_spend_most() -> None:
    """At rate 1 a step of multiplier 10 costs α / 200 nats: count the steps that fit by each order."""
    for epsilon, delta in ((0.5, 1e-5), (3.0, 1e-5), (8.0, 1e-7)):
        chosen = make_budget(epsilon=epsilon, delta=delta)
        rooms = {
            order: Budget(epsilon=epsilon, delta=delta, order=order).renyi_limit / (order / 200 * NATS)
            for order in range(2, 257)
        }
        assert rooms[chosen.order] == max(rooms.values())
        assert rooms[chosen.order] > 1.05 * rooms[2 * chosen.order]
    assert make_budget(epsilon=3.0, delta=1e-5, order=7).order == 7


def test_a_budget_finer_than_the_units_is_rounded_down() -> None:
    tiny = Budget(epsilon=1.5e-9, delta=1e-5, order=2)
    assert tiny.admits(Spent(renyi=NATS, epsilon=1))
    assert not tiny.admits(Spent(renyi=NATS, epsilon=2))
    short = Budget(epsilon=1.0, delta=3e-18, order=2)
    assert short.admits(Spent(renyi=NATS, epsilon=NATS, delta=1))
    assert not short.admits(Spent(renyi=NATS, epsilon=NATS, delta=2))
