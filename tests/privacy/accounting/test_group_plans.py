"""A plan for groups is that of as many examples, and says whom it protects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy.accounting.banded_plan import make_banded_plan
from privacy.accounting.phased_plan import PhaseToPlan, make_phased_plan
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import SampledPlan, make_count_plan, make_sampled_plan
from privacy.errors import LedgerError, PlanError
from privacy.ledger.budget import make_budget
from privacy.ledger.entries import Begun, Entry, read_entry
from tests.privacy.ledgers import CENTRAL_PLAN

SAMPLED = {
    "mechanism": "gaussian",
    "epsilon": 3.0,
    "delta": 1e-5,
    "clipping_norm": 1.0,
    "expected_batch_size": 10,
    "examples": 200,
    "steps": 20,
}
SHARED: dict[str, Any] = {"epsilon": 3.0, "delta": 1e-5, "clipping_norm": 1.0, "examples": 200}


def entry(plan: Plan) -> Entry:
    spent = make_budget(epsilon=30.0, delta=1e-3).cost(plan)
    event = Begun(
        dataset=2,
        run="r",
        manifest="m",
        purpose="training",
        plan=plan,
        keyed=False,
        cost=spent,
        spent=spent,
    )
    return Entry(number=3, time=1, previous="0" * 64, salt="s", event=event)


def test_too_few_groups_are_named_as_such() -> None:
    with pytest.raises(PlanError, match="batch_size <= groups at the site, got batch_size=10, groups=9"):
        make_sampled_plan(**SAMPLED | {"examples": 9}, unit="group")


@pytest.mark.parametrize("kind", ["sampled", "banded", "phased", "count"])
def test_it_costs_what_as_many_examples_cost(kind: str) -> None:
    def plan(unit: Any) -> SampledPlan:
        if kind == "sampled":
            return make_sampled_plan(**SAMPLED, unit=unit)
        if kind == "count":
            return make_count_plan(epsilon=0.5, delta=1e-5, unit=unit)
        if kind == "banded":
            weights = np.ones(20)
            return make_banded_plan(bands=2, weights=weights, expected_batch_size=10, unit=unit, **SHARED)
        phases = [PhaseToPlan(steps=5, expected_batch_size=size) for size in (10, 20)]
        return make_phased_plan(phases, unit=unit, **SHARED)

    of_groups, of_examples = plan("group"), plan("example")
    assert (of_groups.unit, of_examples.unit) == ("group", "example")
    assert replace(of_groups, unit="example") == of_examples
    assert of_groups.epsilon == of_examples.epsilon
    budget = make_budget(epsilon=30.0, delta=1e-3)
    assert budget.cost(of_groups) == budget.cost(of_examples)
    assert read_entry(entry(of_groups).body, number=3).event.plan == of_groups  # type: ignore[union-attr]


def test_a_phase_of_a_plan_is_for_its_unit() -> None:
    phases = [PhaseToPlan(steps=5, expected_batch_size=size) for size in (10, 20)]
    plan = make_phased_plan(phases, unit="group", **SHARED)
    assert {one.unit for one in (*plan.phases, plan.steps_from(3, 4))} == {"group"}


def test_a_ledger_tells_plans_of_the_same_fields_apart_by_their_units() -> None:
    found = read_entry(entry(CENTRAL_PLAN).body, number=3)
    assert isinstance(found.event, Begun)
    assert found.event.plan == CENTRAL_PLAN
    body = entry(make_sampled_plan(**SAMPLED)).body
    with pytest.raises(LedgerError, match="cannot be read"):
        read_entry(body.replace(b'"unit":"example"', b'"unit":"person"'), number=3)
