"""Ledgers to test with, and what their entries add up to by other code than theirs."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import durable
from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.accounting.second_accountant import renyi_by_quadrature
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.accounting.skellam_check import skellam_renyi_by_sum
from privacy.errors import BudgetError, OverdrawnError
from privacy.identity import Identity
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.ledger_file import LedgerFile, Row, copied
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.skellam import IntegerSensitivity, SharedNoise, SkellamMechanism

IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
EPSILON, DELTA = 3.0, 1e-5
NOW = 1_700_000_000


def make_plan(
    *,
    name: str = "gaussian",
    multiplier: float = 2.0,
    rate: float = 0.1,
    steps: int = 10,
    delta: float = 1e-7,
) -> SampledPlan:
    return SampledPlan(
        mechanism=Mechanism(name=name, multiplier=multiplier),
        clipping_norm=1.0,
        sampling_rate=rate,
        steps=steps,
        delta=delta,
    )


# Of whole sites: in shares, of which five of seven count, and from one hand.
SITE_PLAN = SharedSitePlan(
    mechanism=SkellamMechanism(multiplier=24.0),
    clipping_norm=1.0,
    steps=4,
    delta=1e-7,
    shared=SharedNoise(
        sensitivity=IntegerSensitivity(l1=20_000.0, l2=1000.0), min_survivors=7, colluding=2
    ),
)
CENTRAL_PLAN = CentralSitePlan(
    mechanism=Mechanism(name="gaussian", multiplier=24.0), clipping_norm=1.0, steps=4, delta=1e-7
)

# Few, because each one's ε takes a moment: some that the filter counts better by order, some by plan.
PLANS = (
    make_plan(),
    make_plan(multiplier=1.0, rate=0.05, steps=4),
    make_plan(multiplier=4.0, rate=1.0, steps=3),
    make_plan(name="laplace", multiplier=8.0, rate=1.0, steps=1),
    make_plan(name="laplace", multiplier=20.0, rate=0.2, steps=12),
    SITE_PLAN,
    CENTRAL_PLAN,
)


def digests(numbers: Iterable[int]) -> list[bytes]:
    return [hashlib.sha256(b"example %d" % number).digest() for number in numbers]


def data_from(first: int) -> dict[str, list[bytes]]:
    """Data sets in every position to one another."""
    return {
        "base": digests(range(first, first + 40)),
        "the same in another order, with repeats": digests(
            [*reversed(range(first, first + 40)), *range(first, first + 10)]
        ),
        "subset": digests(range(first, first + 20)),
        "superset": digests(range(first, first + 60)),
        "overlapping": digests(range(first + 30, first + 70)),
        "disjoint": digests(range(first + 100, first + 140)),
    }


DATA = data_from(0)


def open_ledger(
    home: Path,
    *,
    site: str = "site-1",
    identity: Identity = IDENTITY,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    order: int | None = None,
    clock: Callable[[], float] = lambda: NOW,
    accept_clock: bool = False,
) -> Ledger:
    return Ledger.open(
        home,
        site=site,
        identity=identity,
        epsilon=epsilon,
        delta=delta,
        order=order,
        clock=clock,
        accept_clock=accept_clock,
    )


def charge(dataset: int, **changes: Any) -> Charge:
    whole = {"run": "run-1", "manifest": "a" * 64, "plan": PLANS[0], "round": 1, "steps": 1} | changes
    return Charge(dataset=dataset, **whole)


@contextmanager
def unflushed() -> Iterator[None]:
    """Do not wait for the disk: that a commit outlasts a power cut is not what most tests are about."""
    whole = LedgerFile._prepare

    def prepare(self: LedgerFile, *, create: bool) -> None:
        whole(self, create=create)
        self._db.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LedgerFile, "_prepare", prepare)
        patched.setattr(durable.os, "fsync", lambda _descriptor: None)
        yield


class OverspentError(AssertionError):
    """Some example has lost more than the budget."""


def check_bounds(path: Path) -> int:
    """Add up every example's loss as the database tells it, compare with the budget, and count them.

    Nothing of the ledger's reading, its filter or its sums is used: rows by SQLite, bodies by JSON, Rényi
    divergences by quadrature, and Canonne, Kamath and Steinke's proposition 12 solved for δ.
    """
    database = sqlite3.connect(path)
    members = dict(database.execute("SELECT dataset, digests FROM members"))
    bodies = [json.loads(body) for (body,) in database.execute("SELECT body FROM entries ORDER BY number")]
    database.close()
    budget, plans = None, {}
    for body in bodies:
        event = body["event"]
        key = (event.get("run"), event.get("purpose"))
        if body["kind"] == "created":
            budget = event["budget"]
        elif body["kind"] == "rebudgeted":
            budget = budget | {"epsilon": event["epsilon"]}
        elif body["kind"] == "begun":
            assert key not in plans
            plans[key] = {
                "dataset": event["dataset"],
                "plan": event["plan"],
                "steps": event["plan"]["steps"],
            }
            plans[key]["taken"] = 0
        elif body["kind"] == "released":
            plans[key]["taken"] += event["steps"]
            assert plans[key]["taken"] <= plans[key]["plan"]["steps"]
        elif body["kind"] == "closed":
            plans[key]["steps"] = plans[key]["taken"]
    losses: dict[bytes, list[dict[str, Any]]] = {}
    for found in plans.values():
        joined = members[found["dataset"]]
        for start in range(0, len(joined), 16):
            losses.setdefault(joined[start : start + 16], []).append(found)
    for digest, plans_of_one in losses.items():
        if not _within(budget, plans_of_one):
            raise OverspentError(f"example {digest.hex()} has lost more than {budget}: {plans_of_one}")
    return len(losses)


def _within(budget: dict[str, Any], plans: list[dict[str, Any]]) -> bool:
    epsilon, half, order = budget["epsilon"], budget["delta"] / 2, budget["order"]
    loss = math.fsum(found["steps"] * _renyi(json.dumps(found["plan"]), order) for found in plans)
    reached = math.exp((order - 1) * (loss - epsilon)) / (order - 1) * (1 - 1 / order) ** order
    # The quadrature is right to a relative 1e-7, which the exponent multiplies by (order - 1) · loss.
    by_order = reached <= half * (1 + 2e-7 * order * (1 + loss))
    costs = [_by_plan(json.dumps(found["plan"])) for found in plans if found["steps"]]
    # Sums of at most a thousand floats under 10: 1e-12 each.
    by_plan = math.fsum(e for e, _ in costs) <= epsilon + 1e-9 and math.fsum(
        d for _, d in costs
    ) <= half * (1 + 1e-9)
    return by_order or by_plan


def read_plan(text: str) -> Plan:
    """A plan as what it is to an example, which moves a sum of sites by two bounds of their updates."""
    table = json.loads(text)
    mechanism, shared = table["mechanism"], table.get("shared")
    common = {name: table[name] for name in ("clipping_norm", "steps", "delta")}
    assert table["adjacency"] == "zero-out"
    if table["unit"] == "example":
        return SampledPlan(mechanism=Mechanism(**mechanism), sampling_rate=table["sampling_rate"], **common)
    assert (table["unit"], table["sampling_rate"]) == ("site", 1.0)
    multiplier = mechanism["multiplier"] / 2
    if shared is None:
        return CentralSitePlan(mechanism=Mechanism(name=mechanism["name"], multiplier=multiplier), **common)
    assert mechanism["name"] == "skellam"
    l1, l2 = 2 * shared["sensitivity"]["l1"], 2 * shared["sensitivity"]["l2"]
    return SharedSitePlan(
        mechanism=SkellamMechanism(multiplier=multiplier),
        shared=SharedNoise(**shared | {"sensitivity": IntegerSensitivity(l1=l1, l2=l2)}),
        **common,
    )


@lru_cache
def _renyi(text: str, order: int) -> float:
    plan = read_plan(text)
    if isinstance(plan, SharedSitePlan):
        l1, l2 = plan.shared.sensitivity.l1, plan.shared.sensitivity.l2
        variance = (plan.mechanism.multiplier * l2) ** 2
        return skellam_renyi_by_sum(l1=l1, l2=l2, variance=variance, order=order)
    return renyi_by_quadrature(mechanism=plan.mechanism, sampling_rate=plan.sampling_rate, order=order)


@lru_cache
def _by_plan(text: str) -> tuple[float, float]:
    """A plan's (ε, δ): Laplace noise alone may stand at δ = 0, where it costs next to nothing more."""
    plan = read_plan(text)
    if plan.mechanism.name == "laplace" and plan.steps / plan.mechanism.multiplier <= plan.epsilon * 1.001:
        return plan.steps / plan.mechanism.multiplier, 0.0
    return plan.epsilon, plan.delta


def play(
    ledger: Ledger,
    random: Random,
    *,
    moves: int,
    data: Mapping[str, Iterable[bytes]] = DATA,
    prefix: str = "",
    tell: Callable[[str], object] = str,
) -> int:
    """Spend on all data sets at random, begin runs, go on with them and end them; ``tell`` of each release.

    What comes next depends on what was refused before. Returns how often that was.
    """
    runs: dict[str, tuple[int, Plan]] = {}
    refused = 0
    for move in range(moves):
        draw = random.random()
        if runs and draw < 0.15:
            name = random.choice(sorted(runs))
            ledger.close_run(name)
            del runs[name]
            continue
        if runs and draw < 0.6:
            name = random.choice(sorted(runs))
        else:
            name = f"{prefix}{move}"
            runs[name] = (ledger.register(data[random.choice(sorted(data))]), random.choice(PLANS))
        dataset, plan = runs[name]
        steps = 1 if plan.unit == "site" else random.randint(1, 1 + plan.steps // 3)
        try:
            ledger.reserve(charge(dataset, run=name, plan=plan, round=move, steps=steps))
        except BudgetError:
            refused += 1
            del runs[name]
        else:
            tell(f"{name} {move} {steps}\n")
    return refused


# Its cost is small beside the budget, so that what is left when it does not fit any more is little.
SMALL = make_plan(multiplier=8.0, rate=1.0, steps=1)


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
