"""The ledger: no example beyond its budget, and what is refused spends nothing."""

# ruff: noqa: S311

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.errors import BudgetError, ConfideError, LedgerError, OverdrawnError, PlanError
from privacy.ledger.budget import Budget, Spent, make_budget
from privacy.ledger.entries import Approved, Refused, read_entry
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_file import copied
from privacy.ledger.state import MOST_REFUSALS, MOST_REFUSALS_OF_A_RUN, History
from tests.privacy.ledgers import (
    CENTRAL_PLAN,
    DATA,
    DELTA,
    EPSILON,
    IDENTITY,
    NOW,
    OTHER,
    PLANS,
    SITE_PLAN,
    SMALL,
    OverspentError,
    charge,
    check_bounds,
    digests,
    fill,
    make_plan,
    open_ledger,
    play,
    rows,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


# The budget.


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_example_goes_beyond_the_budget(seed: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        ledger = open_ledger(Path(home))
        play(ledger, Random(seed), moves=40)
        ledger.close()
        assert check_bounds(Path(home) / "ledger.db") >= 20


def test_some_of_what_is_played_is_refused(tmp_path: Path) -> None:
    """So the budget is what holds the bounds, and not that too little is asked for."""
    ledger = open_ledger(tmp_path)
    refused = play(ledger, Random(0), moves=40)
    ledger.close()
    assert refused > 0


def without_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "_combined", lambda _self, dataset: frozenset({frozenset({dataset})}))


def without_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = History.check_fits

    def check_fits(self: History, dataset: int, extra: Spent) -> None:
        if extra != Spent():  # a round's own check would notice what its plan cost
            whole(self, dataset, Spent())

    monkeypatch.setattr(History, "check_fits", check_fits)


def without_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "_loads", lambda _self, _dataset: iter([Spent()]))


def giving_back_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spent, "share", lambda _self, _taken, *, of: Spent())


def without_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's plan charged as if an example moved the sum by no more than the whole site."""
    for kind in (CentralSitePlan, SharedSitePlan):
        monkeypatch.setattr(kind, "as_charged", lambda self: self)


def with_each_rule_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the plans by one rule and half by the other: each within ε, together not."""

    def cost(self: Budget, plan: object) -> Spent:
        whole = true_cost(self, plan)
        if plan.mechanism.name == "laplace":  # type: ignore[attr-defined]
            return replace(whole, renyi=0)
        return replace(whole, epsilon=0, delta=0)

    true_cost = Budget.cost
    monkeypatch.setattr(Budget, "cost", cost)
    monkeypatch.setattr(
        Budget,
        "admits",
        lambda self, spent: spent.renyi <= self.renyi_limit and spent.epsilon <= self._epsilon_limit,
    )


@pytest.mark.parametrize(
    "broken",
    [
        without_overlaps,
        without_the_cost,
        without_the_past,
        giving_back_all,
        without_doubling,
        with_each_rule_apart,
    ],
)
def test_a_broken_filter_is_caught_by_the_same_check(
    broken: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)  # type: ignore[operator]
    for seed in range(20):
        home = tmp_path / str(seed)
        ledger = open_ledger(home)
        play(ledger, Random(seed), moves=60)
        ledger.close()
        try:
            check_bounds(home / "ledger.db")
        except OverspentError:
            return
    pytest.fail("twenty games and nobody saw it")


def test_the_budget_is_used_up_and_a_larger_one_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small plans until none fits leave less than one; with the whole of δ by order more would fit."""
    ledger = open_ledger(tmp_path / "true")
    fits = fill(ledger, ledger.register(DATA["base"]))
    ledger.close()
    check_bounds(tmp_path / "true" / "ledger.db")
    budget = make_budget(epsilon=EPSILON, delta=DELTA)
    assert fits == budget.renyi_limit // budget.cost(SMALL).renyi

    loose = make_budget(epsilon=EPSILON, delta=2 * DELTA)
    monkeypatch.setattr(Budget, "renyi_limit", replace(loose, order=budget.order).renyi_limit)
    ledger = open_ledger(tmp_path / "loose")
    assert fill(ledger, ledger.register(DATA["base"])) > fits
    ledger.close()
    with pytest.raises(OverspentError):
        check_bounds(tmp_path / "loose" / "ledger.db")


def test_the_same_data_is_the_same_number(ledger: Ledger, dataset: int) -> None:
    assert ledger.register(DATA["the same in another order, with repeats"]) == dataset
    assert ledger.register(iter(DATA["base"])) == dataset
    assert ledger.register(DATA["subset"]) != dataset


def test_another_key_names_the_same_data_otherwise(tmp_path: Path) -> None:
    """Who has no key cannot try out whether an example was in it."""
    found = []
    for identity in (IDENTITY, OTHER):
        home = tmp_path / identity.public.hex()
        ledger = open_ledger(home, identity=identity)
        ledger.register(DATA["base"])
        ledger.close()
        with copied(home / "ledger.db") as file:
            found.append(dict(file.members))
    assert found[0] != found[1]
    raw = {digest[:16] for digest in DATA["base"]}
    kept = {found[0][2][i : i + 16] for i in range(0, len(found[0][2]), 16)}
    assert len(kept) == len(raw)
    assert not kept & raw


@pytest.mark.parametrize("other", ["subset", "superset", "overlapping"])
def test_data_that_shares_examples_shares_their_loss(ledger: Ledger, dataset: int, other: str) -> None:
    fill(ledger, dataset)
    shared = ledger.register(DATA[other])
    with pytest.raises(OverdrawnError):
        ledger.reserve(charge(shared, run="other"))
    with pytest.raises(OverdrawnError):
        ledger.check_fits(shared, run="other", manifest="a" * 64, plan=SMALL)
    assert ledger.epsilon(shared) == ledger.epsilon(dataset)


def test_disjoint_data_has_a_budget_of_its_own(ledger: Ledger, dataset: int) -> None:
    fits = fill(ledger, dataset)
    apart = ledger.register(DATA["disjoint"])
    assert ledger.epsilon(apart) == 0.0
    assert fill(ledger, apart, prefix="apart") == fits


def test_examples_in_three_data_sets_bear_all_three(tmp_path: Path) -> None:
    """Each pair fits; only the examples in all three are full."""
    ledger = open_ledger(tmp_path)
    budget = ledger.budget
    third = make_plan(
        multiplier=8.0, rate=1.0, steps=budget.renyi_limit // budget.cost(SMALL).renyi // 2 - 1
    )
    for number, members in enumerate((range(10), range(5, 15), [*range(5, 6), *range(20, 30)])):
        dataset = ledger.register(digests(members))
        if number < 2:
            ledger.reserve(charge(dataset, run=f"run-{number}", plan=third))
        else:
            with pytest.raises(OverdrawnError):
                ledger.reserve(charge(dataset, run="run-2", plan=third))
            without = ledger.register(digests([*range(6, 7), *range(10, 12), *range(20, 30)]))
            with pytest.raises(OverdrawnError):
                ledger.reserve(charge(without, run="run-3", plan=third))
            pair = ledger.register(digests([*range(10, 12), *range(20, 30)]))
            ledger.reserve(charge(pair, run="run-4", plan=third))
    ledger.close()
    check_bounds(tmp_path / "ledger.db")


def test_a_run_that_ends_gives_back_the_steps_it_never_took(ledger: Ledger, dataset: int) -> None:
    plan = make_plan(multiplier=8.0, rate=1.0, steps=20)
    ledger.reserve(charge(dataset, run="long", plan=plan, steps=1))
    whole = ledger.epsilon(dataset)
    assert ledger.close_run("long") == dataset
    kept = ledger.budget.cost(plan).share(1, of=20)
    assert ledger.epsilon(dataset) == ledger.budget.epsilon_of(kept) < whole
    assert ledger.close_run("long") == dataset
    assert ledger.epsilon(dataset) == ledger.budget.epsilon_of(kept)
    with pytest.raises(BudgetError, match="has ended"):
        ledger.reserve(charge(dataset, run="long", plan=plan, round=2))


def test_training_and_metrics_of_a_run_are_two_plans(ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset))
    trained = ledger.epsilon(dataset)
    ledger.reserve(charge(dataset, purpose="metrics", plan=PLANS[3]))
    assert ledger.epsilon(dataset) > trained
    with pytest.raises(BudgetError, match="planned for 1 steps"):
        ledger.reserve(charge(dataset, purpose="metrics", plan=PLANS[3]))


# What is refused, with nothing spent.


def test_a_lowered_budget_refuses_the_next_round(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(DATA["base"])
    ledger.reserve(charge(dataset, plan=PLANS[0], round=1))
    ledger.close()
    lower = open_ledger(tmp_path, epsilon=0.1)
    before = lower.epsilon(dataset)
    for asked in (charge(dataset, round=2), charge(dataset, run="run-2", plan=SMALL)):
        with pytest.raises(OverdrawnError, match=r"epsilon=0\.1 "):
            lower.reserve(asked)
    assert lower.epsilon(dataset) == pytest.approx(before, abs=1e-9)
    lower.close()
    again = open_ledger(tmp_path, epsilon=EPSILON)
    assert again.reserve(charge(dataset, round=2)).taken == 2


def test_nothing_private_fits_after_a_release_without_noise(ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset))
    shared, apart = ledger.register(DATA["overlapping"]), ledger.register(DATA["disjoint"])
    ledger.record_unprotected(dataset=dataset, run="bare", manifest="b" * 64, round_number=1)
    for asked in (charge(dataset, round=2), charge(dataset, run="new"), charge(shared, run="shared")):
        with pytest.raises(OverdrawnError, match="run bare"):
            ledger.reserve(asked)
    assert ledger.epsilon(dataset) == ledger.epsilon(shared) == math.inf
    assert ledger.reserve(charge(apart, run="apart")).taken == 1


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"manifest": "b" * 64}, LedgerError, "another manifest or plan"),
        ({"plan": PLANS[1]}, LedgerError, "another manifest or plan"),
        ({"steps": 10}, BudgetError, "planned for 10 steps"),
        ({"steps": 0}, LedgerError, "never planned"),
        ({"steps": -1}, LedgerError, "never planned"),
        ({"steps": 1.0}, LedgerError, "cannot be read"),
        ({"round": "2"}, LedgerError, "cannot be read"),
        ({"run": "two", "plan": make_plan(steps=10.0)}, LedgerError, "cannot be read"),
        ({"run": "two", "plan": make_plan(steps=10_000)}, OverdrawnError, "with this plan"),
        ({"run": "two", "steps": 11}, BudgetError, "planned for 10 steps"),
        ({"run": "two", "purpose": "fun"}, LedgerError, "cannot be read"),
    ],
)
def test_a_refused_charge_spends_nothing(
    tmp_path: Path,
    ledger: Ledger,
    dataset: int,
    change: dict[str, object],
    error: type[Exception],
    named: str,
) -> None:
    ledger.reserve(charge(dataset))
    before, spent = rows(tmp_path), ledger.epsilon(dataset)
    with pytest.raises(error, match=named):
        ledger.reserve(charge(dataset, **{"round": 2} | change))
    assert rows(tmp_path) == before
    assert ledger.epsilon(dataset) == spent
    assert ledger.reserve(charge(dataset, round=2)).taken == 2
    assert open_ledger(tmp_path).epsilon(dataset) == spent


def test_what_is_not_there_cannot_be_charged(tmp_path: Path, ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset))
    other = ledger.register(DATA["disjoint"])
    before = rows(tmp_path)
    with pytest.raises(LedgerError, match="data set 99"):
        ledger.reserve(charge(99, run="two"))
    with pytest.raises(LedgerError, match="data set 99"):
        ledger.epsilon(99)
    with pytest.raises(LedgerError, match="never registered"):
        ledger.record_unprotected(dataset=99, run="two", manifest="", round_number=1)
    with pytest.raises(LedgerError, match="data set"):
        ledger.reserve(charge(other, round=2))
    with pytest.raises(LedgerError, match="not begun"):
        ledger.close_run("never")
    assert rows(tmp_path) == before


def test_a_repeated_round_is_charged_again_unless_its_noise_repeats(ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset))
    assert ledger.reserve(charge(dataset)).taken == 2
    first = ledger.reserve(charge(dataset, run="keyed", keyed=True))
    assert ledger.reserve(charge(dataset, run="keyed", keyed=True)) == first
    assert ledger.reserve(charge(dataset, run="keyed", round=2, keyed=True)).taken == 2


def test_a_run_that_was_ended_neither_repeats_a_round_nor_begins_its_metrics(
    ledger: Ledger, dataset: int
) -> None:
    ledger.reserve(charge(dataset, run="r", keyed=True))
    ledger.close_run("r")
    with pytest.raises(BudgetError, match="has ended"):
        ledger.reserve(charge(dataset, run="r", keyed=True))
    with pytest.raises(BudgetError, match="its metrics cannot begin"):
        ledger.reserve(charge(dataset, run="r", purpose="metrics"))


def test_a_clock_that_went_back_is_refused_beyond_two_minutes(tmp_path: Path) -> None:
    now = [float(NOW)]
    ledger = open_ledger(tmp_path, clock=lambda: now[0])
    dataset = ledger.register(DATA["base"])
    now[0] = NOW - 121
    with pytest.raises(LedgerError, match="clock went backwards"):
        ledger.reserve(charge(dataset))
    assert ledger.epsilon(dataset) == 0.0
    for number, now[0] in enumerate((NOW - 120, NOW - 1, NOW + 5), start=1):
        assert ledger.reserve(charge(dataset, round=number)).taken == number
    history = ledger._chain.history
    assert history.last is not None
    assert history.last.time == NOW + 5


def test_a_decision_is_written_once(tmp_path: Path, ledger: Ledger) -> None:
    refused = Refused(run="r", manifest="m", rule="rules.epsilon", reason="it was too much")
    ledger.record(refused)
    ledger.record(replace(refused, reason="for another reason"))
    assert len(rows(tmp_path)) == 2
    assert not ledger.approved("m")
    other = open_ledger(tmp_path)
    other.record(Approved(run="r", manifest="m"))
    assert ledger.approved("m")


def test_ledgers_on_one_file_see_one_another(tmp_path: Path) -> None:
    one, two = open_ledger(tmp_path), open_ledger(tmp_path)
    dataset = one.register(DATA["base"])
    assert two.register(DATA["base"]) == dataset
    for number in range(6):
        assert (one, two)[number % 2].reserve(charge(dataset, round=number)).taken == number + 1
    assert one.epsilon(dataset) == two.epsilon(dataset) > 0
    fill(one, dataset)
    with pytest.raises(OverdrawnError):
        two.reserve(charge(dataset, run="another", plan=SMALL))


# Sums of whole sites' updates.


def test_sums_are_told_and_nothing_is_given_back(ledger: Ledger, dataset: int) -> None:
    plan = SITE_PLAN
    for number, survivors in ((1, 12), (2, 7), (3, 20)):
        ledger.reserve(charge(dataset, plan=plan, round=number))
        before = ledger.epsilon(dataset)
        told = [summed for _, summed in ((1, 12), (2, 7), (3, 20))[: number - 1]]
        found = ledger.record_summed(run="run-1", round_number=number, survivors=survivors)
        assert found == pytest.approx(plan.epsilon_of_summed([*told, survivors]), rel=1e-12)
        assert 0.0 < found <= plan.epsilon_after(number)
        assert ledger.epsilon(dataset) == before
    assert found < 0.95 * plan.epsilon_after(3)
    # The filter holds what an example may have lost by the whole plan.
    assert ledger.epsilon(dataset) == pytest.approx(plan.as_charged().epsilon, abs=2e-9)


def test_a_charge_without_its_sum_counts_as_planned(ledger: Ledger, dataset: int) -> None:
    """Round 1 was interrupted and repeated: its first sum may have been read by somebody."""
    ledger.reserve(charge(dataset, plan=SITE_PLAN, round=1))
    ledger.reserve(charge(dataset, plan=SITE_PLAN, round=1))
    found = ledger.record_summed(run="run-1", round_number=1, survivors=20)
    assert found == pytest.approx(SITE_PLAN.epsilon_of_summed([20], untold=1), rel=1e-12)
    assert found > SITE_PLAN.epsilon_of_summed([20, 20])


def test_a_sum_is_told_once_for_each_charge(tmp_path: Path, ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset, plan=SITE_PLAN, round=1))
    first = ledger.record_summed(run="run-1", round_number=1, survivors=9)
    assert ledger.record_summed(run="run-1", round_number=1, survivors=9) == first
    assert len(rows(tmp_path)) == 5
    with pytest.raises(LedgerError, match="no charge of round 1"):
        ledger.record_summed(run="run-1", round_number=1, survivors=10)
    # Charged again, it has another sum, and a site that asks anew after a kill is answered as before.
    ledger.reserve(charge(dataset, plan=SITE_PLAN, round=1))
    second = ledger.record_summed(run="run-1", round_number=1, survivors=9)
    assert second == pytest.approx(SITE_PLAN.epsilon_of_summed([9, 9]), rel=1e-12)
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.record_summed(run="run-1", round_number=1, survivors=9) == second
    assert len(rows(tmp_path)) == 7


@pytest.mark.parametrize(
    ("run", "number", "survivors", "named"),
    [
        ("run-1", 2, 9, "no charge of round 2"),
        ("run-1", 1, 6, "survivors=6"),
        ("run-1", 1, 0, "survivors=0"),
        ("run-2", 1, 9, "unit='site'"),
        ("run-3", 1, 9, "has not begun its training"),
        ("central", 1, 0, "survivors=0"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(
    tmp_path: Path, ledger: Ledger, dataset: int, run: str, number: int, survivors: int, named: str
) -> None:
    ledger.reserve(charge(dataset, plan=SITE_PLAN))
    ledger.reserve(charge(dataset, run="run-2", plan=SMALL))
    ledger.reserve(charge(dataset, run="central", plan=CENTRAL_PLAN))
    before = len(rows(tmp_path))
    with pytest.raises(LedgerError, match=named):
        ledger.record_summed(run=run, round_number=number, survivors=survivors)
    assert len(rows(tmp_path)) == before


def test_central_noise_does_not_grow_with_the_sum(ledger: Ledger, dataset: int) -> None:
    ledger.reserve(charge(dataset, plan=CENTRAL_PLAN))
    found = ledger.record_summed(run="run-1", round_number=1, survivors=100)
    assert found == CENTRAL_PLAN.epsilon_after(1)


def test_a_round_of_sites_is_one_sum(tmp_path: Path, ledger: Ledger, dataset: int) -> None:
    with pytest.raises(LedgerError, match="is one sum, not steps=2"):
        ledger.reserve(charge(dataset, plan=SITE_PLAN, steps=2))
    assert len(rows(tmp_path)) == 2


def test_every_refusal_is_ours() -> None:
    """What a caller catches as one tree is one."""
    assert issubclass(OverdrawnError, BudgetError)
    for error in (BudgetError, LedgerError, PlanError):
        assert issubclass(error, ConfideError)


def refusal(run: str, number: int) -> Refused:
    return Refused(run=run, manifest=f"{run}-{number}", rule="rules.tasks", reason="no")


def count_refused(home: Path, run: str | None = None) -> int:
    events = [read_entry(row.body, number=row.number).event for row in rows(home)]
    return sum(isinstance(event, Refused) and run in (None, event.run) for event in events)


def test_only_so_many_refusals_of_a_run_are_written(tmp_path: Path, ledger: Ledger) -> None:
    for number in range(MOST_REFUSALS_OF_A_RUN + 20):
        ledger.record(refusal("r", number))
    assert count_refused(tmp_path) == MOST_REFUSALS_OF_A_RUN
    ledger.record(refusal("other", 0))
    assert count_refused(tmp_path, "other") == 1


def test_only_so_many_refusals_are_written_until_something_is_allowed(
    tmp_path: Path, ledger: Ledger, dataset: int
) -> None:
    def flood(prefix: str) -> int:
        before = count_refused(tmp_path)
        for number in range(MOST_REFUSALS + 20):
            ledger.record(refusal(f"{prefix}-{number}", 0))
        return count_refused(tmp_path) - before

    assert flood("first") == MOST_REFUSALS
    assert flood("second") == 0
    ledger = open_ledger(tmp_path)
    assert flood("by another process") == 0
    ledger.reserve(charge(dataset))
    assert flood("after a plan began") == MOST_REFUSALS
    # A plan that goes on is one that was allowed before.
    ledger.reserve(charge(dataset, round=2))
    assert flood("in its second round") == 0
    ledger.record(Approved(run="r", manifest="m"))
    assert flood("after an approval") == MOST_REFUSALS
