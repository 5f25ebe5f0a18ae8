"""A plan with bands in the ledger: what ends early costs what its examples could be drawn in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from privacy.accounting.banded_plan import BandedPlan
from privacy.errors import BudgetError, LedgerError
from privacy.ledger.budget import NATS, make_budget
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.banded_noise import ONE
from privacy.mechanisms.mechanism import Mechanism
from tests.privacy.ledgers import charge, digests, open_ledger

PLAN = BandedPlan(
    mechanism=Mechanism(name="gaussian", multiplier=2.0),
    clipping_norm=1.0,
    sampling_rate=0.3,
    steps=8,
    delta=1e-7,
    coefficients=(ONE, 3000, 2000),
)


def test_a_plan_costs_as_many_draws_as_an_example_has() -> None:
    budget = make_budget(epsilon=3.0, delta=1e-5)
    cost = budget.cost(PLAN)
    assert cost.renyi == pytest.approx(3 * PLAN.renyi(budget.order) * NATS, rel=1e-6)
    assert cost.epsilon == pytest.approx(PLAN.epsilon * NATS, abs=1)


@pytest.mark.parametrize(("taken", "draws"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3), (8, 3)])
def test_a_run_that_is_closed_costs_the_draws_that_were_begun(
    tmp_path: Path, taken: int, draws: int
) -> None:
    """By steps, one of eight would count an eighth of a plan in which some examples had a third."""
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(digests(range(20)))
    for number in range(taken):
        assert ledger.taken("run-1") == number
        ledger.reserve(charge(dataset, plan=PLAN, round=number + 1))
    ledger.close_run("run-1")
    closed = audit_ledger(tmp_path / "ledger.db").entries[-1].event
    assert closed.spent.renyi == -(-ledger.budget.cost(PLAN).renyi * draws // 3)
    assert closed.spent.epsilon == ledger.budget.cost(PLAN).epsilon


def test_steps_end_with_the_plan(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(digests(range(20)))
    assert ledger.reserve(charge(dataset, plan=PLAN, steps=6)).taken == 6
    with pytest.raises(BudgetError, match="planned for 8 steps"):
        ledger.reserve(charge(dataset, plan=PLAN, steps=3, round=2))
    other = replace(PLAN, coefficients=(ONE, 3000, 2001))
    with pytest.raises(LedgerError, match="another manifest or plan"):
        ledger.reserve(charge(dataset, plan=other, steps=2, round=2))
    ((plan,),) = (audit_ledger(tmp_path / "ledger.db").plans,)
    assert plan.plan == PLAN
    assert plan.recomputed == pytest.approx(PLAN.epsilon, rel=0.01)
