"""A plan in phases in the ledger: what it costs, who checks it, and what is left when it ends early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from privacy.accounting.phased_plan import PhasedPlan
from privacy.errors import BudgetError, LedgerError
from privacy.ledger.budget import NATS, make_budget
from privacy.ledger.entries import Begun
from privacy.ledger.ledger_audit import _check_cost, audit_ledger
from privacy.mechanisms.mechanism import Mechanism
from tests.privacy.ledgers import charge, digests, open_ledger

PLAN = PhasedPlan(
    mechanism=Mechanism(name="gaussian", multiplier=2.0),
    clipping_norm=1.0,
    sampling_rate=0.3,
    steps=8,
    delta=1e-7,
    lengths=(2, 6),
    rates=(0.3, 0.1),
    multipliers=(3.0, 2.0),
)


def test_a_plan_costs_what_its_phases_do() -> None:
    budget = make_budget(epsilon=3.0, delta=1e-5)
    cost = budget.cost(PLAN)
    first, second = PLAN.phases
    expected = 2 * first.renyi(budget.order) + 6 * second.renyi(budget.order)
    assert cost.renyi == pytest.approx(expected * NATS, rel=1e-6)
    assert cost.epsilon == pytest.approx(PLAN.epsilon * NATS, abs=1)


def test_charges_count_through_the_phases_and_an_audit_recomputes_them(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(digests(range(20)))
    assert ledger.reserve(charge(dataset, plan=PLAN, steps=1)).taken == 1
    assert ledger.reserve(charge(dataset, plan=PLAN, steps=6, round=2)).taken == 7
    with pytest.raises(BudgetError, match="planned for 8 steps"):
        ledger.reserve(charge(dataset, plan=PLAN, steps=2, round=3))
    other = replace(PLAN, lengths=(3, 5))
    with pytest.raises(LedgerError, match="another manifest or plan"):
        ledger.reserve(charge(dataset, plan=other, steps=1, round=3))
    ((audited,),) = (audit_ledger(tmp_path / "ledger.db").plans,)
    assert audited.plan == PLAN
    assert audited.recomputed == pytest.approx(PLAN.epsilon, rel=0.012)


def test_a_run_that_is_closed_early_gives_nothing_back(tmp_path: Path) -> None:
    """Its first steps may be those that cost most: a share by their number would be too little."""
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(digests(range(20)))
    ledger.reserve(charge(dataset, plan=PLAN, steps=1))
    ledger.close_run("run-1")
    closed = audit_ledger(tmp_path / "ledger.db").entries[-1].event
    assert closed.spent == ledger.budget.cost(PLAN)


@pytest.mark.parametrize("less", [{"renyi": 2}, {"epsilon": 2}])
def test_an_audit_finds_a_cost_that_is_too_low(tmp_path: Path, less: dict[str, int]) -> None:
    """Of equal steps of the second phase alone, it would be less than half."""
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(digests(range(20)))
    ledger.reserve(charge(dataset, plan=PLAN, steps=1))
    (begun,) = [
        one.event for one in audit_ledger(tmp_path / "ledger.db").entries if isinstance(one.event, Begun)
    ]
    _check_cost(3, begun, ledger.budget)
    (key,) = less
    low = replace(begun.cost, **{key: getattr(begun.cost, key) // 2})
    with pytest.raises(LedgerError, match="its cost is too low"):
        _check_cost(3, replace(begun, cost=low), ledger.budget)
