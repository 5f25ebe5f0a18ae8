"""Entries and the chain: what is written is what is read, and what may not stand there is named."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting.plan import Plan
from privacy.errors import LedgerError, OverdrawnError
from privacy.ledger.budget import Spent, make_budget
from privacy.ledger.dataset_overlap import DIGEST_BYTES, combinations, fingerprint
from privacy.ledger.entries import (
    Approved,
    Begun,
    ClockSet,
    Closed,
    Created,
    Entry,
    Event,
    Frozen,
    Rebudgeted,
    Refused,
    Registered,
    Released,
    Summed,
    Unfrozen,
    Unprotected,
    read_entry,
    to_table,
)
from privacy.ledger.state import History
from tests.privacy.ledgers import CENTRAL_PLAN, IDENTITY, NOW, PLANS, SITE_PLAN, make_plan

BUDGET = make_budget(epsilon=3.0, delta=1e-5)
CREATED = Created(version=1, site="site-1", public_key=IDENTITY.public.hex(), budget=BUDGET)
PLAN = PLANS[0]
COST = BUDGET.cost(PLAN)


def members_of(numbers: range) -> bytes:
    return b"".join(b"%0*d" % (DIGEST_BYTES, number) for number in numbers)


# Data sets 2 and 3 overlap, 4 stands alone.
MEMBERS = {2: members_of(range(8)), 3: members_of(range(4, 12)), 4: members_of(range(20, 24))}
REGISTERED = {
    number: Registered(fingerprint=fingerprint(digests), examples=len(digests) // DIGEST_BYTES)
    for number, digests in MEMBERS.items()
}


def begun(**changes: Any) -> Begun:
    whole = {"dataset": 2, "run": "r", "manifest": "m", "purpose": "training", "plan": PLAN, "keyed": False}
    return Begun(**{"cost": COST, "spent": COST} | whole | changes)


def released(**changes: Any) -> Released:
    whole = {
        "dataset": 2,
        "run": "r",
        "purpose": "training",
        "round": 1,
        "steps": 4,
        "taken": 4,
        "spent": COST,
    }
    return Released(**whole | changes)


def closed(**changes: Any) -> Closed:
    kept = COST.share(4, of=PLAN.steps)
    return Closed(**{"dataset": 2, "run": "r", "purpose": "training", "taken": 4, "spent": kept} | changes)


def summed(**changes: Any) -> Summed:
    return Summed(**{"dataset": 2, "run": "s", "round": 1, "survivors": 9, "epsilon": 0.1} | changes)


SITE_COST = BUDGET.cost(SITE_PLAN)


def begun_site(**changes: Any) -> Begun:
    return begun(**{"run": "s", "plan": SITE_PLAN, "cost": SITE_COST, "spent": SITE_COST} | changes)


def released_site(taken: int, **changes: Any) -> Released:
    return released(
        **{"run": "s", "round": taken, "steps": 1, "taken": taken, "spent": SITE_COST} | changes
    )


UNPROTECTED = Unprotected(dataset=2, run="bare", manifest="m", round=1)
EVENTS: list[Event] = [
    CREATED,
    Rebudgeted(epsilon=1.5),
    ClockSet(before=NOW + 10**9),
    REGISTERED[2],
    begun(),
    begun(plan=PLANS[3], purpose="metrics"),
    released(),
    closed(),
    begun_site(),
    begun_site(plan=CENTRAL_PLAN),
    summed(),
    UNPROTECTED,
    Approved(run="r", manifest="m"),
    Refused(run="r", manifest="m", rule="rules.epsilon", reason='"ε" is too much\n'),
    Frozen(job="tweets", audit="ab" * 32, reason="ε ≥ 9\n"),
    Unfrozen(entry=7, reason='"mended"'),
]


def entry_of(event: Event, *, number: int = 1) -> Entry:
    return Entry(number=number, time=NOW, previous="0" * 64, salt="5a", event=event)


def body_of(of: Event = UNPROTECTED, **changes: Any) -> bytes:
    return canonical(json.loads(entry_of(of).body) | changes)


def canonical(table: object) -> bytes:
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plan_table(plan: Plan) -> dict[str, Any]:
    return json.loads(entry_of(begun(plan=plan)).body)["event"]["plan"]


def without(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}


def with_field(event: Event, name: str, value: object) -> bytes:
    return body_of(event, event=json.loads(entry_of(event).body)["event"] | {name: value})


def without_field(event: Event, name: str) -> bytes:
    table = json.loads(entry_of(event).body)["event"]
    del table[name]
    return body_of(event, event=table)


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b"[" * 100_000,
        entry_of(UNPROTECTED).body + b" ",
        json.dumps(json.loads(entry_of(UNPROTECTED).body), sort_keys=True).encode(),
        entry_of(UNPROTECTED).body.replace(b'"number":1', b'"number":1,"number":1'),
        entry_of(UNPROTECTED).body.replace(b'"number":1', b'"number":01'),
        entry_of(Refused(run="ü", manifest="m", rule="", reason="")).body.replace("ü".encode(), b"\\u00fc"),
        entry_of(UNPROTECTED).body.decode().encode("utf-16"),
        body_of(more=1),
        body_of(number=2),
        body_of(number=True),
        body_of(number=1.0),
        body_of(time="now"),
        body_of(time=1.5),
        body_of(previous=None),
        body_of(salt=1),
        body_of(kind="entry"),
        body_of(kind=[]),
        body_of(kind="approved"),
        body_of(event=[]),
        body_of(event=None),
        without_field(UNPROTECTED, "round"),
        with_field(UNPROTECTED, "more", 1),
        with_field(UNPROTECTED, "round", 1.0),
        with_field(UNPROTECTED, "round", True),
        with_field(UNPROTECTED, "run", None),
        with_field(begun(), "purpose", "fun"),
        with_field(begun(), "purpose", []),
        with_field(begun(), "plan", None),
        with_field(begun(), "cost", {"renyi": 1.0, "epsilon": 0, "delta": 0}),
        with_field(begun(), "plan", json.loads(entry_of(begun()).body)["event"]["plan"] | {"delta": 1.0}),
        with_field(begun(), "plan", json.loads(entry_of(begun()).body)["event"]["plan"] | {"unit": "site"}),
        # What a kind of plan or the budget fixes has one form only, and each kind its own fields.
        *(
            with_field(begun(plan=plan), "plan", plan_table(plan) | change)
            for plan in (PLAN, SITE_PLAN, CENTRAL_PLAN)
            for change in (
                {"unit": "person"},
                {"adjacency": "replace-one"},
                {"steps": 10**400},
                {"mechanism": {"name": "exact", "multiplier": 1.0}},
                {"mechanism": {"name": "gaussian", "multiplier": 0.0}},
            )
        ),
        with_field(begun(), "plan", plan_table(PLAN) | {"mechanism": plan_table(SITE_PLAN)["mechanism"]}),
        with_field(
            begun(plan=CENTRAL_PLAN),
            "plan",
            plan_table(CENTRAL_PLAN) | {"mechanism": plan_table(SITE_PLAN)["mechanism"]},
        ),
        with_field(
            begun_site(), "plan", plan_table(SITE_PLAN) | {"mechanism": plan_table(PLAN)["mechanism"]}
        ),
        with_field(
            begun(plan=CENTRAL_PLAN),
            "plan",
            plan_table(CENTRAL_PLAN) | {"mechanism": plan_table(PLANS[3])["mechanism"]},
        ),
        with_field(begun_site(), "plan", plan_table(SITE_PLAN) | {"sampling_rate": 1}),
        with_field(begun_site(), "plan", plan_table(SITE_PLAN) | {"sampling_rate": True}),
        with_field(CREATED, "budget", to_table(BUDGET) | {"unit": "site"}),
        with_field(begun(), "plan", json.loads(entry_of(begun()).body)["event"]["plan"] | {"shared": None}),
        with_field(
            begun(),
            "plan",
            json.loads(entry_of(begun()).body)["event"]["plan"]
            | {"shared": plan_table(SITE_PLAN)["shared"]},
        ),
        with_field(begun_site(), "plan", without(plan_table(SITE_PLAN), "shared")),
        with_field(begun_site(), "plan", plan_table(SITE_PLAN) | {"unit": "example"}),
        with_field(begun_site(), "plan", plan_table(SITE_PLAN) | {"unit": "group"}),
        with_field(begun_site(), "plan", plan_table(SITE_PLAN) | {"sampling_rate": 0.5}),
        with_field(summed(), "survivors", 9.0),
        with_field(summed(), "epsilon", None),
        with_field(Rebudgeted(epsilon=1.0), "epsilon", math.nan),
        with_field(Rebudgeted(epsilon=1.0), "epsilon", math.inf),
        with_field(Rebudgeted(epsilon=1.0), "epsilon", True),
    ],
)
def test_a_body_that_is_not_as_it_is_written_is_named(body: bytes) -> None:
    with pytest.raises(LedgerError, match=r"^entry 1: ") as caught:
        read_entry(body, number=1)
    assert caught.value.entry == 1


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_what_is_written_is_what_is_read(event: Event) -> None:
    entry = entry_of(event, number=7)
    assert read_entry(entry.body, number=7) == entry
    assert entry.hash == hashlib.sha256(entry.body).hexdigest()
    assert replace(entry, salt="5b").hash != entry.hash
    with pytest.raises(LedgerError, match="calls itself entry 7"):
        read_entry(entry.body, number=8)


def test_an_entry_of_an_earlier_version_is_read_and_keeps_its_bytes() -> None:
    """Written out by hand, as Confide 0.3 wrote it: without what plans have had since."""
    body = (
        b'{"event":{"cost":{"delta":100000000000,"epsilon":5,"renyi":7},"dataset":2,"keyed":false,'
        b'"manifest":"m","plan":{"adjacency":"zero-out","clipping_norm":1.0,"delta":1e-07,'
        b'"mechanism":{"multiplier":2.0,"name":"gaussian"},"sampling_rate":0.1,"steps":10,'
        b'"unit":"example"},"purpose":"training","run":"r","spent":{"delta":100000000000,"epsilon":5,'
        b'"renyi":7}},"kind":"begun","number":3,"previous":"00","salt":"5a","time":1700000000}'
    )
    entry = read_entry(body, number=3)
    assert entry.event.plan == PLAN
    assert entry.body == body


def test_every_kind_of_event_is_tried() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@given(st.text(), st.integers(-(2**70), 2**70))
def test_any_text_and_any_number_comes_back(text: str, number: int) -> None:
    entry = entry_of(Unprotected(dataset=number, run=text, manifest="", round=0))
    assert read_entry(entry.body, number=1) == entry


# The chain.


def chained(*events: Event) -> tuple[History, list[Entry]]:
    """A history of events, and its entries."""
    history, entries = History(MEMBERS), []
    for event in events:
        history.add(following(history, event))
        entries.append(history.last)
    return history, entries


def following(history: History, event: Event, **changes: Any) -> Entry:
    whole = {
        "number": history.length + 1,
        "time": NOW,
        "previous": history.head,
        "salt": "",
        "event": event,
    }
    return Entry(**whole | changes)


START = (CREATED, *REGISTERED.values())


@pytest.mark.parametrize(
    ("before", "event", "named"),
    [
        ((), UNPROTECTED, "begins with its creation"),
        ((), replace(CREATED, version=2), "version 2"),
        ((CREATED,), CREATED, "begins with its creation"),
        ((CREATED,), REGISTERED[3], "fingerprint"),
        ((CREATED,), Rebudgeted(epsilon=0.0), "cannot be"),
        ((CREATED,), begun(), "never registered"),
        ((CREATED,), UNPROTECTED, "never registered"),
        (START, released(), "not begun"),
        (START, closed(), "not begun"),
        (START, begun(spent=Spent()), "total"),
        (START, begun(spent=replace(COST, delta=0)), "total"),
        (
            START,
            begun(cost=Spent(renyi=10**12, epsilon=10**12), spent=Spent(renyi=10**12, epsilon=10**12)),
            "beyond",
        ),
        ((*START, begun()), begun(spent=COST + COST), "has begun its training already"),
        ((*START, begun()), begun(run="r2", spent=COST), "total"),
        ((*START, begun()), released(taken=5), "count of steps"),
        ((*START, begun()), released(steps=0, taken=0), "never planned"),
        ((*START, begun()), released(steps=-1, taken=-1), "never planned"),
        ((*START, begun()), released(steps=11, taken=11), "never planned"),
        ((*START, begun()), released(dataset=3), "data set"),
        ((*START, begun()), released(purpose="metrics"), "not begun its metrics"),
        ((*START, begun()), released(spent=Spent()), "total"),
        ((*START, begun(), released()), released(), "count of steps"),
        ((*START, begun(), released()), closed(taken=0, spent=Spent()), "count of steps"),
        ((*START, begun(), released()), closed(spent=Spent()), "total"),
        ((*START, begun(), released()), closed(dataset=3), "data set"),
        ((*START, begun(), released(), closed()), closed(), "ended already"),
        (
            (*START, begun(), released(), closed()),
            released(steps=1, taken=5, spent=COST.share(4, of=10)),
            "never planned",
        ),
        ((*START, begun(), Rebudgeted(epsilon=0.01)), released(), "beyond the budget"),
        ((*START, begun(), UNPROTECTED), released(), "beyond the budget"),
        ((*START, UNPROTECTED), begun(dataset=3), "beyond the budget"),
        ((*START, begun_site()), released_site(2, steps=2), "is one sum"),
        (START, summed(), "not begun"),
        ((*START, begun_site()), summed(), "no charge of round 1"),
        ((*START, begun_site(), released_site(1)), summed(round=2), "no charge of round 2"),
        ((*START, begun_site(), released_site(1)), summed(dataset=3), "data set"),
        ((*START, begun_site(), released_site(1)), summed(survivors=6), "survivors=6"),
        ((*START, begun_site(), released_site(1)), summed(epsilon=-0.1), "epsilon=-0.1"),
        ((*START, begun_site(), released_site(1), summed()), summed(), "no charge of round 1"),
        (
            (*START, begun_site(purpose="metrics"), released_site(1, purpose="metrics")),
            summed(),
            "not begun its training",
        ),
        ((*START, begun(), released(steps=1, taken=1)), summed(run="r"), "unit='site'"),
        (
            (
                *START,
                begun_site(
                    plan=CENTRAL_PLAN, cost=BUDGET.cost(CENTRAL_PLAN), spent=BUDGET.cost(CENTRAL_PLAN)
                ),
                released_site(1, spent=BUDGET.cost(CENTRAL_PLAN)),
            ),
            summed(survivors=0),
            "survivors=0",
        ),
    ],
)
def test_what_may_not_stand_there_is_named_and_not_taken(
    before: tuple[Event, ...], event: Event, named: str
) -> None:
    history, entries = chained(*before)
    state = repr(
        sorted((name, repr(value)) for name, value in vars(history).items() if name != "_combinations")
    )
    with pytest.raises(LedgerError, match=named) as caught:
        history.add(following(history, event))
    assert caught.value.entry == len(entries) + 1
    assert state == repr(
        sorted((name, repr(value)) for name, value in vars(history).items() if name != "_combinations")
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"number": 4}, "expected entry 5"),
        ({"number": 6}, "expected entry 5"),
        ({"previous": "0" * 64}, "continue"),
        ({"time": NOW - 1}, "older"),
    ],
)
def test_an_entry_out_of_line_is_named(change: dict[str, Any], named: str) -> None:
    history, _ = chained(*START)
    with pytest.raises(LedgerError, match=named) as caught:
        history.add(following(history, Approved(run="r", manifest="m"), **change))
    assert caught.value.entry == 5


def test_a_chain_with_an_entry_left_out_or_swapped_is_named() -> None:
    _, entries = chained(*START, begun(), released(), closed())
    for left_out in range(len(entries) - 1):
        history = History(MEMBERS)
        with pytest.raises(LedgerError) as caught:  # noqa: PT012 - it is which of them that is asked
            for entry in entries[:left_out] + entries[left_out + 1 :]:
                history.add(entry)
        assert caught.value.entry == left_out + 1


def test_totals_are_by_example() -> None:
    """By hand: examples 4 to 7 are in both data sets, so they bear both plans; nobody else does."""
    history, _ = chained(*START, begun(), begun(dataset=3, run="r3"))
    assert history.spent(2) == history.spent(3) == COST
    assert history.heaviest(2) == history.heaviest(3) == COST + COST
    assert history.heaviest(4) == Spent()
    assert combinations(MEMBERS, 2, among=MEMBERS) == {frozenset({2}), frozenset({2, 3})}
    assert combinations(MEMBERS, 4, among=MEMBERS) == {frozenset({4})}
    small = BUDGET.cost(make_plan(multiplier=8.0, rate=1.0, steps=1))
    with pytest.raises(OverdrawnError):
        history.check_fits(2, replace(COST, renyi=BUDGET.renyi_limit - 2 * COST.renyi + 1, epsilon=10**10))
    history.check_fits(2, replace(small, renyi=BUDGET.renyi_limit - 2 * COST.renyi))
    history.check_fits(4, replace(small, renyi=BUDGET.renyi_limit))


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=1, max_size=5))
def test_combinations_are_those_of_each_example(sets: list[set[int]]) -> None:
    members = {
        number: b"".join(sorted(b"%0*d" % (DIGEST_BYTES, element) for element in elements))
        for number, elements in enumerate(sets)
    }
    for dataset, elements in enumerate(sets):
        held = {
            frozenset(number for number, others in enumerate(sets) if element in others)
            for element in elements
        }
        assert combinations(members, dataset, among=members) == held | {frozenset({dataset})}
