"""The ledger: no example beyond its budget, and nothing lost or spent by what goes wrong."""

# ruff: noqa: S311, S607

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import durable
from privacy.budget import Budget, Spent, make_budget
from privacy.entries import PURPOSE, Approved, Created, Entry, Refused
from privacy.errors import BudgetError, ConfideError, LedgerError, OverdrawnError, PlanError
from privacy.history import History
from privacy.ledger import Ledger
from privacy.ledger_file import LedgerFile, Row, copied
from tests.privacy.ledgers import (
    DATA,
    DELTA,
    EPSILON,
    IDENTITY,
    NOW,
    OTHER,
    PLANS,
    OverspentError,
    charge,
    check_bounds,
    digests,
    make_plan,
    open_ledger,
    play,
    unflushed,
)

# Its cost is small beside the budget, so that what is left when it does not fit any more is little.
SMALL = make_plan(multiplier=8.0, rate=1.0, steps=1)


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with unflushed():
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


@pytest.fixture
def dataset(ledger: Ledger) -> int:
    return ledger.register(DATA["base"])


def rows(home: Path) -> list[Row]:
    with copied(home / "ledger.db") as file:
        return list(file.rows())


def fill(ledger: Ledger, dataset: int, prefix: str = "fill") -> int:
    """Begin small plans until none fits: how many did."""
    for count in range(10_000):
        try:
            ledger.reserve(charge(dataset, run=f"{prefix}-{count}", plan=SMALL))
        except OverdrawnError:
            return count
    raise RuntimeError("nothing was ever refused")


# The budget.


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_example_goes_beyond_the_budget(seed: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        ledger = open_ledger(Path(home))
        refused = play(ledger, Random(seed), moves=40)
        ledger.close()
        assert check_bounds(Path(home) / "ledger.db") >= 20
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
    [without_overlaps, without_the_cost, without_the_past, giving_back_all, with_each_rule_apart],
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
    history = ledger._history
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


# Ledgers that are not this one.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"site": "site-2"}, "of site site-1, not of site-2"),
        ({"identity": OTHER}, "site's key did not sign it|changed, or is another site's"),
        ({"delta": 1e-6}, "delta=1e-05"),
        ({"order": 3}, "order="),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "finite"),
    ],
)
def test_another_ledger_than_was_begun_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    open_ledger(tmp_path).close()
    before = rows(tmp_path)
    with pytest.raises((LedgerError, PlanError), match=named):
        open_ledger(tmp_path, **change)
    assert rows(tmp_path) == before
    open_ledger(tmp_path, order=make_budget(epsilon=EPSILON, delta=DELTA).order).close()


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"delta": 1.0}, {"delta": 0.0}, {"order": 1}])
def test_a_ledger_that_promises_nothing_is_not_begun(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(PlanError):
        open_ledger(tmp_path, **change)
    open_ledger(tmp_path).close()
    assert len(rows(tmp_path)) == 1


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("PRAGMA user_version = 2")
    for opened in (lambda: open_ledger(tmp_path), lambda: rows(tmp_path)):
        with pytest.raises(LedgerError, match="format 2"):
            opened()


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db", create=True)
    created = Created(
        version=2,
        site="site-1",
        public_key=IDENTITY.public.hex(),
        budget=make_budget(epsilon=EPSILON, delta=DELTA),
    )
    entry = Entry(number=1, time=NOW, previous="0" * 64, salt="", event=created)
    with file.transaction():
        file.append(Row(number=1, body=entry.body, signature=IDENTITY.sign(PURPOSE, entry.body)))
    file.close()
    with pytest.raises(LedgerError, match="version 2") as caught:
        open_ledger(tmp_path)
    assert caught.value.entry == 1


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerError):
        open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("CREATE TABLE theirs (x)")
    content = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerError, match="not a ledger"):
        open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == content


# Disks and what they lose.


def _copy(home: Path, to: Path) -> Path:
    """What a process leaves that is killed now: the files as the system has them."""
    shutil.copytree(home, to)
    return to


def _spend(ledger: Ledger, rounds: range) -> int:
    dataset = ledger.register(DATA["base"])
    for number in rounds:
        ledger.reserve(charge(dataset, round=number))
    return dataset


def test_a_cut_off_file_is_refused_at_every_length(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "whole")
    _spend(ledger, range(3))
    ledger.close()
    whole = (tmp_path / "whole" / "ledger.db").read_bytes()
    for length in [0, 1, 99, 100, 511, 512, *range(1024, len(whole), 1024), len(whole) - 1]:
        home = _copy(tmp_path / "whole", tmp_path / str(length))
        (home / "ledger.db").write_bytes(whole[:length])
        with pytest.raises(LedgerError):
            open_ledger(home)
        (home / "ledger.db").unlink()
        for left in home.glob("ledger.db-*"):
            left.unlink()
        (home / "ledger.db").write_bytes(whole)
        assert rows(home) == rows(tmp_path / "whole")
        reopened = open_ledger(home)
        assert reopened.reserve(charge(2, round=9)).taken == 4
        reopened.close()


def test_a_lost_log_is_noticed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "home")
    ledger.close()  # the first entries move into the database
    ledger = open_ledger(tmp_path / "home")
    _spend(ledger, range(3))
    killed = _copy(tmp_path / "home", tmp_path / "killed")
    assert open_ledger(_copy(killed, tmp_path / "well")).reserve(charge(2, round=3)).taken == 4
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (killed / name).unlink()
    with pytest.raises(LedgerError, match="write-ahead log is gone") as caught:
        open_ledger(killed)
    assert caught.value.entry == 2


def test_an_older_copy_is_noticed_by_new_and_by_open_ledgers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ledger = open_ledger(home)
    _spend(ledger, range(3))
    ledger.close()
    older = _copy(home, tmp_path / "older")
    ledger = open_ledger(home)
    _spend(ledger, range(3, 6))
    ledger.close()
    shutil.copyfile(older / "ledger.db", home / "ledger.db")
    with pytest.raises(LedgerError, match="older copy") as caught:
        open_ledger(home)
    assert caught.value.entry == 7


def test_a_lost_database_is_not_begun_anew(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    _spend(ledger, range(1))
    ledger.close()
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="lost"):
        open_ledger(tmp_path)
    assert not (tmp_path / "ledger.db").exists()
    with pytest.raises(LedgerError, match="no ledger"):
        rows(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"null",
        b'{"entries": 1}',
        b'{"entries": "3", "hash": "", "signature": ""}',
        b'{"entries": 3, "hash": 3, "signature": "00"}',
    ],
)
def test_a_broken_head_is_named(tmp_path: Path, text: bytes) -> None:
    ledger = open_ledger(tmp_path)
    _spend(ledger, range(1))
    (tmp_path / "ledger.head").write_bytes(text)
    for use in (lambda: ledger.epsilon(2), lambda: open_ledger(tmp_path)):
        with pytest.raises(LedgerError, match=r"ledger\.head"):
            use()


def test_a_lost_head_is_named_unless_nothing_was_spent(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    (tmp_path / "ledger.head").unlink()
    dataset = open_ledger(tmp_path).register(DATA["base"])
    (tmp_path / "ledger.head").unlink()
    with pytest.raises(LedgerError, match=r"ledger\.head is lost"):
        ledger.reserve(charge(dataset))


def test_a_head_of_an_older_state_does_not_hide_what_came_after(tmp_path: Path) -> None:
    """A process killed between its commit and its note of it leaves that."""
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    older = (tmp_path / "ledger.head").read_bytes()
    spent = ledger.epsilon(dataset)
    ledger.reserve(charge(dataset, run="run-2"))
    (tmp_path / "ledger.head").write_bytes(older)
    assert open_ledger(tmp_path).epsilon(dataset) > spent
    assert ledger.reserve(charge(dataset, round=7)).taken == 2


@pytest.mark.parametrize("chained", [True, False])
def test_an_entry_that_the_site_did_not_sign_never_counts(tmp_path: Path, chained: bool) -> None:
    """Not in the process that met it either, and its own next entry must not make it good."""
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    honest = rows(tmp_path)
    last = ledger._history.head if chained else "0" * 64
    forged = Entry(
        number=len(honest) + 1,
        time=NOW,
        previous=last,
        salt="",
        event=Approved(run="evil", manifest="c" * 64),
    )
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute(
            "INSERT INTO entries VALUES (?, ?, ?)",
            (forged.number, forged.body, OTHER.sign(PURPOSE, forged.body)),
        )
    for _ in range(3):
        for use in (
            lambda: ledger.reserve(charge(dataset, round=2)),
            lambda: ledger.approved("c" * 64),
            lambda: open_ledger(tmp_path),
        ):
            with pytest.raises(LedgerError) as caught:
                use()
            assert caught.value.entry == forged.number
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DELETE FROM entries WHERE number = ?", (forged.number,))
    assert rows(tmp_path) == honest
    assert ledger.reserve(charge(dataset, round=2)).taken == 2


def test_a_database_that_cannot_grow_spends_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    database = ledger._file._db
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    returned = 0
    with pytest.raises(LedgerError, match="full"):  # noqa: PT012 - at which of them is SQLite's affair
        for number in range(1, 100):
            ledger.reserve(charge(dataset, run=f"tiny-{number}", plan=SMALL))
            returned += 1
    before = rows(tmp_path)
    assert len([row for row in before if b'"kind":"released"' in row.body]) == 1 + returned
    database.execute("PRAGMA max_page_count = 1000000")
    assert ledger.epsilon(dataset) == open_ledger(tmp_path).epsilon(dataset)
    ledger.reserve(charge(dataset, run="later", plan=SMALL))
    assert rows(tmp_path)[: len(before)] == before


def test_a_head_that_cannot_be_written_spends_rather_than_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "fsync", full)
        with pytest.raises(LedgerError, match=r"ledger\.head cannot be written: No space left"):
            ledger.reserve(charge(dataset, round=2))
    assert ledger.reserve(charge(dataset, round=2)).taken == 3
    assert open_ledger(tmp_path).reserve(charge(dataset, round=3)).taken == 4


OTHER_DISKS = """
import subprocess, sys
from pathlib import Path
from privacy.errors import LedgerError
from privacy.ledger_audit import audit_ledger
from privacy.ledger_file import copied
from tests.privacy.ledgers import DATA, charge, make_plan, open_ledger

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

home, small = Path(sys.argv[1]), Path(sys.argv[2])
mount("--bind", str(home), str(home))
mount("-o", "remount,bind,ro", str(home))
try:
    open_ledger(home)
except LedgerError as error:
    assert "Read-only file system" in str(error), error
else:
    raise SystemExit("opened for writing on a read-only disk")
with copied(home / "ledger.db") as file:
    assert len(list(file.rows())) == 5
assert len(audit_ledger(home / "ledger.db").entries) == 5

mount("-t", "tmpfs", "-o", "size=200k", "none", str(small))
ledger = open_ledger(small, epsilon=1000.0)
dataset = ledger.register(DATA["base"])
plan = make_plan(steps=1000)
returned = 0
try:
    for number in range(1000):
        ledger.reserve(charge(dataset, plan=plan, round=number))
        returned += 1
except LedgerError as error:
    said = str(error)
assert returned > 3 and ("full" in said or "No space" in said), (returned, said)
ledger.close()
mount("-o", "remount,size=2m", str(small))
taken = open_ledger(small, epsilon=1000.0).reserve(charge(dataset, plan=plan, round=1000)).taken
# The commit may have been on disk when the note of it found no room: counted, never forgotten.
assert returned + 1 <= taken <= returned + 2, (returned, taken)
print("well")
"""


def test_other_disks(tmp_path: Path) -> None:
    """A disk that is read-only and one that is full, each in a mount namespace of its own."""
    home, small = tmp_path / "home", tmp_path / "small"
    small.mkdir()
    ledger = open_ledger(home)
    _spend(ledger, range(2))
    _copy(home, tmp_path / "killed")  # with its log, as a killed process leaves it
    can = (
        shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], check=False).returncode == 0
    )
    if not can:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", OTHER_DISKS, tmp_path / "killed", small],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr


def test_the_log_moves_into_the_database_under_the_lock(tmp_path: Path) -> None:
    """Who copies the files holds the lock, and must not meet a database that its last writer is closing."""
    ledger = open_ledger(tmp_path)
    database = ledger._file._db
    closed = []

    class Watched:
        def close(self) -> None:
            with (tmp_path / "ledger.lock").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    closed.append("unlocked")
                except BlockingIOError:
                    closed.append("locked")
            database.close()

    ledger._file._db = Watched()  # type: ignore[assignment]
    ledger.close()
    assert closed[0] == "locked"


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


def test_every_refusal_is_ours() -> None:
    """What a caller catches as one tree is one."""
    assert issubclass(OverdrawnError, BudgetError)
    for error in (BudgetError, LedgerError, PlanError):
        assert issubclass(error, ConfideError)
