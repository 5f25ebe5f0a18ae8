"""The audit: it passes an honest ledger, names the first wrong entry of any other, and believes no sum."""

# ruff: noqa: S311

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from privacy.accounting.plan import Plan
from privacy.errors import LedgerError, OverdrawnError
from privacy.ledger.budget import Budget, Spent, nats
from privacy.ledger.entries import PURPOSE, Begun, Created, Event, Refused, Released, Summed, read_entry
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_audit import agrees, audit_ledger, recomputed_epsilon
from privacy.ledger.ledger_file import LedgerFile, Row, copied
from privacy.ledger.state import History
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.skellam import SkellamMechanism
from tests.privacy.ledgers import (
    CENTRAL_PLAN,
    DATA,
    IDENTITY,
    OTHER,
    PLANS,
    SITE_PLAN,
    charge,
    make_plan,
    open_ledger,
    play,
    unflushed,
)

SAMPLED = 200  # bytes of each file that are tried beside those that mean something


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with unflushed():
        yield


def small_ledger(home: Path) -> Ledger:
    """One of every kind of entry but the last, which is open."""
    ledger = open_ledger(home)
    dataset = ledger.register(DATA["base"][:3])
    ledger.reserve(charge(dataset))
    ledger.close_run("run-1")
    ledger.reserve(charge(ledger.register(DATA["base"][2:5]), run="run-2", plan=PLANS[3]))
    ledger.record(Refused(run="run-3", manifest="b" * 64, rule="rules.epsilon", reason="too much"))
    return ledger


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that a ledger says, read as it lies there."""

    rows: tuple[Row, ...]
    members: dict[int, bytes]


def content(path: Path) -> Content:
    with copied(path) as file:
        return Content(rows=tuple(file.rows()), members=dict(file.members))


def verdict(home: Path, name: str, whole: Content) -> str:
    """``named`` if the audit names an entry (or the head, if that changed), ``harmless`` if nothing did.

    Raises AssertionError if it is neither: something else is told, and nobody noticed.
    """
    try:
        audit_ledger(home / "ledger.db")
    except LedgerError as error:
        assert error.entry is not None or (name == "ledger.head" and "ledger.head" in str(error)), error  # noqa: PT017
        return "named"
    assert content(home / "ledger.db") == whole
    assert name != "ledger.head"
    return "harmless"


def flips(home: Path, name: str, places: list[int], random: Random) -> dict[str, int]:
    """Change each byte in turn, one bit or several, and count the verdicts."""
    found = {"named": 0, "harmless": 0}
    whole, path = content(home / "ledger.db"), home / name
    good = path.read_bytes()
    for place in places:
        changed = bytearray(good)
        changed[place] ^= random.choice([1 << random.randrange(8), random.randrange(1, 256)])
        path.write_bytes(changed)
        found[verdict(home, name, whole)] += 1
    path.write_bytes(good)
    assert verdict(home, "ledger.db", whole) == "harmless"
    return found


def meaning(home: Path, name: str) -> list[int]:
    """Where the last entry's signature and body and the last data set's digests lie in a file."""
    told, data = content(home / "ledger.db"), (home / name).read_bytes()
    last = told.rows[-1]
    found = []
    for text in (told.members[max(told.members)], last.signature, last.body):
        start = data.rindex(text)
        found += range(start, start + len(text))
    return found


def sampled(home: Path, name: str, random: Random) -> list[int]:
    return meaning(home, name) + random.sample(range((home / name).stat().st_size), SAMPLED)


@pytest.mark.exhaustive
def test_a_flipped_bit_in_a_closed_database_is_named_or_changes_nothing(tmp_path: Path) -> None:
    small_ledger(tmp_path).close()
    assert not (tmp_path / "ledger.db-wal").exists()
    random = Random(1)
    found = flips(tmp_path, "ledger.db", sampled(tmp_path, "ledger.db", random), random)
    assert found["named"] >= len(meaning(tmp_path, "ledger.db"))


@pytest.mark.exhaustive
def test_a_flipped_bit_in_what_a_kill_leaves_is_named_or_changes_nothing(tmp_path: Path) -> None:
    """Database and log as they are while a process holds them, with entries in each."""
    small_ledger(tmp_path / "home").close()
    ledger = open_ledger(tmp_path / "home")
    for number in range(2):
        ledger.reserve(charge(2, run="run-4", round=number))
    ledger.register(DATA["disjoint"][:3])
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "home", killed)
    random = Random(2)
    found = flips(killed, "ledger.db-wal", sampled(killed, "ledger.db-wal", random), random)
    assert found["named"] >= len(meaning(killed, "ledger.db-wal"))
    size = (killed / "ledger.db").stat().st_size
    flips(killed, "ledger.db", random.sample(range(size), SAMPLED // 3), random)


def test_every_flipped_bit_in_the_head_is_named(tmp_path: Path) -> None:
    small_ledger(tmp_path).close()
    size = (tmp_path / "ledger.head").stat().st_size
    found = flips(tmp_path, "ledger.head", list(range(size)), Random(3))
    assert found == {"named": size, "harmless": 0}


def test_an_audit_that_skips_signatures_is_caught_by_the_same_flips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ledger(tmp_path).close()
    monkeypatch.setattr("privacy.ledger.ledger_audit._check_signature", lambda _row, _public: None)
    with pytest.raises(AssertionError):
        flips(tmp_path, "ledger.db", meaning(tmp_path, "ledger.db"), Random(1))


def test_an_audit_that_skips_fingerprints_is_caught_by_the_same_flips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ledger(tmp_path).close()
    whole = History._expect

    def expect(number: int, what: str, got: object, expected: object) -> None:
        if what != "fingerprint":
            whole(number, what, got, expected)

    monkeypatch.setattr(History, "_expect", staticmethod(expect))
    with pytest.raises(AssertionError):
        flips(tmp_path, "ledger.db", meaning(tmp_path, "ledger.db"), Random(1))


# What a site could write that holds its own key.


def resign(home: Path, change: Callable[[Event], Event]) -> None:
    """Write a ledger's entries anew with changed events, chained and signed as they should be."""
    path = home / "ledger.db"
    told = content(path)
    for left in home.glob("ledger.*"):
        left.unlink()
    file, previous = LedgerFile(path, create=True), "0" * 64
    with file.transaction():
        for dataset, digests in told.members.items():
            file.append_members(dataset, digests)
        for row in told.rows:
            entry = read_entry(row.body, number=row.number)
            entry = replace(entry, previous=previous, event=change(entry.event))
            previous = entry.hash
            file.append(
                Row(number=row.number, body=entry.body, signature=IDENTITY.sign(PURPOSE, entry.body))
            )
    file.close()


@pytest.mark.parametrize(
    ("part", "named"), [("renyi", "too low"), ("epsilon", "too low"), ("delta", "delta is less")]
)
def test_a_cost_that_is_too_low_is_named_by_another_accountant(
    tmp_path: Path, part: str, named: str
) -> None:
    """Nine tenths of it: well beyond the 1 % and 0.002 that two accountants may differ by."""

    def cheaper(event: Event) -> Event:
        if not isinstance(event, Begun):
            return event
        cost = replace(event.cost, **{part: getattr(event.cost, part) * 9 // 10})
        return replace(event, cost=cost, spent=cost)

    ledger = open_ledger(tmp_path)
    ledger.reserve(charge(ledger.register(DATA["base"])))
    ledger.close()
    resign(tmp_path, lambda event: event)
    assert len(audit_ledger(tmp_path / "ledger.db").entries) == 4
    resign(tmp_path, cheaper)
    with pytest.raises(LedgerError, match=named) as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 3


@pytest.mark.parametrize(
    ("change", "entry", "named"),
    [
        (lambda e: replace(e, taken=2) if isinstance(e, Released) else e, 4, "count of steps"),
        (lambda e: replace(e, public_key="zz") if isinstance(e, Created) else e, 1, "names no key"),
        (
            lambda e: replace(e, public_key=OTHER.public.hex()) if isinstance(e, Created) else e,
            1,
            "did not sign",
        ),
        (
            lambda e: Refused(run="", manifest="", rule="", reason="") if isinstance(e, Created) else e,
            1,
            "creation",
        ),
        (
            lambda e: replace(e, budget=tiny(e.budget)) if isinstance(e, Created) else e,
            3,
            "beyond the budget",
        ),
        (lambda e: replace(e, spent=Spent()) if isinstance(e, Begun) else e, 3, "total"),
    ],
)
def test_a_site_that_signs_what_cannot_be_is_named(
    tmp_path: Path, change: Callable[[Any], Any], entry: int, named: str
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve(charge(ledger.register(DATA["base"])))
    ledger.close()
    resign(tmp_path, change)
    with pytest.raises(LedgerError, match=named) as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == entry


@pytest.mark.parametrize("plan", [SITE_PLAN, CENTRAL_PLAN], ids=["shared", "central"])
@pytest.mark.parametrize("part", ["renyi", "epsilon"])
def test_a_site_plan_that_is_not_charged_for_an_example_is_named(
    tmp_path: Path, plan: Plan, part: str
) -> None:
    """As if nothing were doubled: a site loses a quarter of it by order, and half by plan."""

    def undoubled(event: Event) -> Event:
        if not isinstance(event, Begun):
            return event
        own = {"renyi": nats(plan.steps * plan.renyi(budget.order)), "epsilon": nats(plan.epsilon)}
        cost = replace(event.cost, **{part: own[part]})
        return replace(event, cost=cost, spent=cost)

    ledger = open_ledger(tmp_path)
    budget = ledger.budget
    ledger.reserve(charge(ledger.register(DATA["base"]), plan=plan))
    ledger.close()
    (told,) = audit_ledger(tmp_path / "ledger.db").plans
    assert told.recomputed <= told.epsilon <= 1.001 * told.recomputed
    assert told.epsilon == pytest.approx(plan.as_charged().epsilon, abs=2e-9)
    resign(tmp_path, undoubled)
    with pytest.raises(LedgerError, match="its cost is too low") as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epsilon": 0.9}, "less than its sums cost"),
        ({"epsilon": 2.5}, "over its plan's own"),
        ({"survivors": 7}, "less than its sums cost"),
        ({"survivors": 6}, "survivors=6"),
        ({"round": 2}, "no charge of round 2"),
    ],
)
def test_a_sum_that_was_not_so_is_named(tmp_path: Path, change: dict[str, float], named: str) -> None:
    """Changes to ε are factors. 22 survivors have four times the variance, and half of the plan's ε."""

    def wrong(event: Event) -> Event:
        if not isinstance(event, Summed) or event.round != 4:
            return event
        factor = {"epsilon": event.epsilon * change["epsilon"]} if "epsilon" in change else change
        return replace(event, **factor)

    ledger = open_ledger(tmp_path)
    dataset = ledger.register(DATA["base"])
    for number in range(1, 5):
        ledger.reserve(charge(dataset, plan=SITE_PLAN, round=number))
        found = ledger.record_summed(run="run-1", round_number=number, survivors=22)
    ledger.close()
    assert 1.5 * found < SITE_PLAN.epsilon < 2.5 * found
    (told,) = audit_ledger(tmp_path / "ledger.db").plans
    assert told.summed == found
    resign(tmp_path, wrong)
    with pytest.raises(LedgerError, match=named) as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 11


@pytest.mark.parametrize(
    "quiet",
    [
        replace(SITE_PLAN, mechanism=SkellamMechanism(multiplier=1e-5)),
        replace(CENTRAL_PLAN, mechanism=Mechanism(name="gaussian", multiplier=1e-5)),
        make_plan(multiplier=1e-5),
        make_plan(name="laplace", multiplier=1e-9),
    ],
    ids=["shared", "central", "gaussian", "laplace"],
)
def test_a_plan_that_cannot_be_checked_is_named(tmp_path: Path, quiet: Plan) -> None:
    """A site that signs a plan of next to no noise, with the highest cost that there is."""
    most = Spent(renyi=10**18, epsilon=10**18, delta=10**11)

    def costly(event: Event) -> Event:
        return replace(event, plan=quiet, cost=most, spent=most) if isinstance(event, Begun) else event

    ledger = open_ledger(tmp_path)
    ledger.reserve(charge(ledger.register(DATA["base"]), plan=SITE_PLAN))
    ledger.close()
    resign(tmp_path, costly)
    with pytest.raises(LedgerError, match="no second accountant can check it") as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 3


def test_a_receipt_of_a_site_plan_is_checked_for_the_site() -> None:
    for plan in (SITE_PLAN, CENTRAL_PLAN):
        for steps in (0, 1, 4):
            recomputed = recomputed_epsilon(plan, steps)
            assert agrees(plan.epsilon_after(steps), recomputed)
            assert plan.epsilon_after(steps) <= 1.01 * recomputed + 1e-4
        assert not agrees(plan.epsilon_after(3), recomputed_epsilon(plan, 4))


def tiny(budget: Budget) -> Budget:
    return replace(budget, epsilon=0.01)


def test_a_ledger_without_its_head_is_said_to_be_open_ended(tmp_path: Path) -> None:
    small_ledger(tmp_path).close()
    assert audit_ledger(tmp_path / "ledger.db").complete
    (tmp_path / "ledger.head").unlink()
    assert not audit_ledger(tmp_path / "ledger.db").complete


def test_an_older_copy_is_named(tmp_path: Path) -> None:
    small_ledger(tmp_path / "home").close()
    shutil.copytree(tmp_path / "home", tmp_path / "older")
    ledger = open_ledger(tmp_path / "home")
    ledger.reserve(charge(2, run="later"))
    ledger.close()
    shutil.copyfile(tmp_path / "home" / "ledger.head", tmp_path / "older" / "ledger.head")
    with pytest.raises(LedgerError, match="older copy") as caught:
        audit_ledger(tmp_path / "older" / "ledger.db")
    assert caught.value.entry == 10


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_ledger_passes_and_stays_as_it_was(tmp_path: Path, seed: int) -> None:
    ledger = open_ledger(tmp_path)
    play(ledger, Random(seed), moves=60)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "ledger.db-shm"}
    audit = audit_ledger(tmp_path / "ledger.db")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "ledger.db-shm"}
    assert before == after
    assert audit.complete
    assert (audit.site, audit.public_key) == ("site-1", IDENTITY.public.hex())
    assert audit.head == ledger._chain.history.head
    for dataset in audit.datasets:
        assert dataset.epsilon == ledger.epsilon(dataset.number) <= 3.0
    ledger.record_unprotected(dataset=2, run="bare", manifest="", round_number=1)
    assert audit_ledger(tmp_path / "ledger.db").datasets[0].epsilon is None


def test_plans_at_the_edges_pass(tmp_path: Path) -> None:
    """The second accountant must not accuse an honest site of what it cannot resolve itself."""
    edges = [
        make_plan(multiplier=0.3, rate=0.01, steps=3, delta=1e-6),
        make_plan(multiplier=100.0, rate=1.0, steps=1, delta=1e-9),
        make_plan(multiplier=50.0, rate=0.001, steps=5000, delta=1e-9),
        make_plan(name="laplace", multiplier=0.2, rate=0.05, steps=3),
        make_plan(name="laplace", multiplier=500.0, rate=1.0, steps=200),
        make_plan(multiplier=1.0, rate=1e-6, steps=10, delta=1e-9),
    ]
    ledger = open_ledger(tmp_path, epsilon=1000.0)
    dataset = ledger.register(DATA["base"])
    for number, plan in enumerate(edges):
        ledger.reserve(charge(dataset, run=f"run-{number}", plan=plan))
    assert len(audit_ledger(tmp_path / "ledger.db").plans) == len(edges)


def test_a_delta_that_nobody_can_check_is_not_certified(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    plan = make_plan(multiplier=100.0, rate=0.01, steps=1, delta=1e-12)
    ledger.reserve(charge(ledger.register(DATA["base"]), plan=plan))
    with pytest.raises(LedgerError, match="no second accountant can check delta=1e-12") as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 3


def test_costs_that_are_tiny_may_not_be_forged_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many plans of ε near 0.002 add up: each must stand there with what it costs."""
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(DATA["base"])
    plan = make_plan(multiplier=200.0, rate=0.01, steps=1000, delta=1e-5)
    assert 1e-3 < plan.epsilon < 1e-2
    cost = Budget.cost
    monkeypatch.setattr(Budget, "cost", lambda self, plan: replace(cost(self, plan), epsilon=0))
    ledger.reserve(charge(dataset, plan=plan))
    with pytest.raises(LedgerError, match="its cost is too low") as caught:
        audit_ledger(tmp_path / "ledger.db")
    assert caught.value.entry == 3


def test_the_key_that_the_auditor_knows_must_be_the_ledgers(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    path = tmp_path / "ledger.db"
    assert audit_ledger(path, key=IDENTITY.public.hex()).site == "site-1"
    with pytest.raises(LedgerError, match="the ledger is under key") as caught:
        audit_ledger(path, key="ab" * 32)
    assert caught.value.entry == 1


def test_keyed_noise_is_told_apart_and_leaves_no_bound(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = ledger.register(DATA["base"])
    ledger.reserve(charge(dataset, keyed=True))
    audit = audit_ledger(tmp_path / "ledger.db")
    assert audit.plans[0].keyed
    assert audit.datasets[0].epsilon is None
    with pytest.raises(OverdrawnError, match="no bound can hold"):
        ledger.reserve(charge(dataset, run="another"))


def test_what_sqlite_says_of_a_broken_schema_need_not_be_text(tmp_path: Path) -> None:
    small_ledger(tmp_path).close()
    path = tmp_path / "ledger.db"
    path.write_bytes(path.read_bytes().replace(b"(number INTEGER", b"(n\xfdmber INTEGER"))
    with pytest.raises(LedgerError) as caught:
        audit_ledger(path)
    assert caught.value.entry == 1
