"""An auditor's reading of a ledger: believe nothing, recompute everything, name the first wrong entry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.phased_plan import PhasedPlan, phases_of
from privacy.accounting.plan import Plan, SitePlan, summed_plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.accounting.second_accountant import (
    LEAST_DELTA,
    Part,
    epsilon_by_fft,
    epsilon_of_parts,
    renyi_by_quadrature,
)
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.accounting.skellam_check import skellam_epsilon_by_sum, skellam_renyi_by_sum
from privacy.errors import LedgerError, PlanError, SignatureError
from privacy.identity import verify
from privacy.ledger.budget import NATS, Budget, deltas, nats
from privacy.ledger.chain import EntryFile, check_head
from privacy.ledger.entries import PURPOSE, Begun, Created, Entry, Purpose, Summed, read_entry
from privacy.ledger.ledger_book import BOOK, copied_book
from privacy.ledger.ledger_file import Row, copied
from privacy.ledger.state import Course, History

# How far a recorded cost may lie under the second accountant's: both round, and that one's ε is an upper
# bound less than 1 % or 0.0001 above the exact value.
_RENYI_SHORT = 1e-6
_EPSILON_SHORT, _EPSILON_SHORT_NATS = 0.01, 1e-4


@dataclass(frozen=True, kw_only=True)
class AuditedPlan:
    """One run's plan as the ledger tells it, and what it cost an example.

    ``recomputed`` is ε by the second accountant. ``summed`` is what a plan that hides sites cost the site
    by what was really summed; None where no sum was told.
    """

    entry: int
    run: str
    purpose: Purpose
    dataset: int
    plan: Plan
    taken: int
    charges: int
    closed: bool
    keyed: bool
    epsilon: float
    recomputed: float
    summed: float | None


@dataclass(frozen=True, kw_only=True)
class AuditedDataset:
    """One data set: the ``epsilon`` that its heaviest-laden example has lost, None if without bound."""

    number: int
    fingerprint: str
    examples: int
    epsilon: float | None


@dataclass(frozen=True, kw_only=True)
class LedgerAudit:
    """A ledger that passed. ``complete`` is whether ledger.head was there to rule out lost entries.

    ``refused_enough`` is whether there were so many refusals that later ones are not written down, and
    ``frozen`` the number of the entry by which an audit froze it, None if it is not frozen.
    """

    site: str
    public_key: str
    budget: Budget
    entries: tuple[Entry, ...]
    complete: bool
    datasets: tuple[AuditedDataset, ...]
    plans: tuple[AuditedPlan, ...]
    refused_enough: bool
    frozen: int | None

    @property
    def head(self) -> str:
        return self.entries[-1].hash


def audit_ledger(path: Path, *, key: str | None = None, site: str | None = None) -> LedgerAudit:
    """Verify each signature, the chain and every total, with an accountant of its own.

    ``key`` is the site's public key, as hex, if it is known from elsewhere: without it, what is shown is
    that one key signed everything, and that key is the ledger's own word. ``site`` is the one meant where
    ``path`` is a book of many. Works on a copy, so that the evidence stays as it is. Raises LedgerError
    naming the first wrong entry.
    """
    if path.name == BOOK:
        with copied_book(path) as book:
            if site not in book.sites():
                raise LedgerError(f"{path} has the ledgers of many sites: say which one with --site NAME")
            return audit_entries(book.pages(site), key=key)
    with copied(path) as file:
        audit = audit_entries(file, key=key)
    if site is not None and audit.site != site:
        raise LedgerError(f"the ledger is of site {audit.site}, not of {site}")
    return audit


def audit_entries(file: EntryFile, *, key: str | None = None) -> LedgerAudit:
    """The same of a ledger that is open, wherever it is kept."""
    entries: list[Entry] = []
    history = History(file.members)
    for row in file.rows():
        entry = read_entry(row.body, number=row.number)
        public = _public_key(entries[0] if entries else entry)
        if key is not None and public.hex() != key:
            raise LedgerError(f"the ledger is under key {public.hex()}, not {key}", entry=1)
        _check_signature(row, public)
        if isinstance(entry.event, Begun):
            with _named(entry.number):
                _check_cost(entry.number, entry.event, history.budget)
        history.add(entry)
        if isinstance(entry.event, Summed):
            with _named(entry.number):
                _check_sum(entry.number, entry.event, history)
        entries.append(entry)
    created = history.created
    head = file.read_head()
    if head is not None:
        check_head(head, [entry.hash for entry in entries], bytes.fromhex(created.public_key))
    return LedgerAudit(
        site=created.site,
        public_key=created.public_key,
        budget=history.budget,
        entries=tuple(entries),
        complete=head is not None,
        datasets=tuple(_dataset(history, number) for number in history.datasets),
        plans=tuple(_plan(course, history) for course in history.courses.values()),
        refused_enough=history.refused_enough,
        frozen=None if history.freeze.by is None else history.freeze.entry,
    )


@contextmanager
def _named(number: int) -> Iterator[None]:
    """What the second accountant cannot check is the entry's fault."""
    try:
        yield
    except PlanError as error:
        raise LedgerError(f"no second accountant can check it: {error}", entry=number) from error


def _public_key(first: Entry) -> bytes:
    if not isinstance(first.event, Created):
        raise LedgerError("a ledger begins with its creation", entry=1)
    try:
        return bytes.fromhex(first.event.public_key)
    except ValueError as error:
        raise LedgerError("it names no key", entry=1) from error


def _check_signature(row: Row, public: bytes) -> None:
    try:
        verify(public, PURPOSE, row.body, row.signature)
    except SignatureError as error:
        raise LedgerError("the site's key did not sign it", entry=row.number) from error


def _check_cost(number: int, begun: Begun, budget: Budget) -> None:
    """Compare a plan's recorded cost with what the second accountant says."""
    plan, cost = begun.plan.as_charged(), begun.cost
    if plan.delta < LEAST_DELTA:
        raise LedgerError(
            f"no second accountant can check delta={plan.delta:g}: expected 1e-9 or more", entry=number
        )
    parts = phases_of(plan) or (plan,)
    by_order = sum(one.draws(one.steps) * _renyi(one, budget.order) for one in parts)
    by_plan = recomputed_epsilon(plan, plan.steps)
    if cost.renyi < nats(by_order) * (1 - _RENYI_SHORT) or not agrees(cost.epsilon / NATS, by_plan):
        raise LedgerError(
            f"its cost is too low: {cost.renyi / NATS:.6g} nats by order and "
            f"epsilon={cost.epsilon / NATS:.6g} are written down, a second accountant finds "
            f"{by_order:.6g} and {by_plan:.6g}",
            entry=number,
        )
    if cost.delta < deltas(plan.delta) and cost.epsilon < nats(plan.pure_epsilon):
        raise LedgerError(f"its delta is less than its plan's, {plan.delta:g}", entry=number)


def _check_sum(number: int, summed: Summed, history: History) -> None:
    """Compare what a run cost by its sums with what the second accountant says, and with the plan."""
    course = history.course(summed.run, "training")
    survivors = [one.survivors for one in history.sums[summed.run]]
    recomputed = _epsilon_of_sums(summed_plan(course.plan), survivors, course.taken - len(survivors))
    if not agrees(summed.epsilon, recomputed):
        raise LedgerError(
            f"epsilon={summed.epsilon:g} is less than its sums cost: a second accountant finds "
            f"{recomputed:.6g}",
            entry=number,
        )
    if summed.epsilon > course.plan.epsilon * (1 + _RENYI_SHORT):
        raise LedgerError(
            f"epsilon={summed.epsilon:g} is over its plan's own, {course.plan.epsilon:.6g}", entry=number
        )


def agrees(claimed: float, recomputed: float) -> bool:
    """Whether an ε that is claimed is no lower than the second accountant allows for."""
    return claimed >= recomputed * (1 - _EPSILON_SHORT) - _EPSILON_SHORT_NATS


def recomputed_epsilon(plan: Plan, steps: int) -> float:
    """ε of a plan's first steps by the second accountant; a lower bound for Skellam noise."""
    if not steps:
        return 0.0
    return _epsilon_of_sums(plan, (), steps) if isinstance(plan, SharedSitePlan) else _epsilon(plan, steps)


@lru_cache(maxsize=1024)
def _renyi(plan: Plan, order: int) -> float:
    if isinstance(plan, SharedSitePlan):
        l1, l2 = plan.shared.sensitivity.l1, plan.shared.sensitivity.l2
        return skellam_renyi_by_sum(l1=l1, l2=l2, variance=_planned_variance(plan), order=order)
    return renyi_by_quadrature(mechanism=plan.mechanism, sampling_rate=plan.sampling_rate, order=order)


@lru_cache(maxsize=1024)
def _epsilon(plan: SampledPlan | CentralSitePlan, steps: int) -> float:
    if isinstance(plan, PhasedPlan):
        kinds = plan.first_steps(steps)
        return epsilon_of_parts(
            [Part(kind.mechanism, kind.sampling_rate, kind.count) for kind in kinds], delta=plan.delta
        )
    return epsilon_by_fft(
        mechanism=plan.mechanism,
        sampling_rate=plan.sampling_rate,
        steps=plan.draws(steps),
        delta=plan.delta,
    )


def _epsilon_of_sums(plan: SitePlan, survivors: Sequence[int], untold: int) -> float:
    """ε of sums with these survivors, and of ``untold`` more with the fewest that the plan allows."""
    if not isinstance(plan, SharedSitePlan):
        return recomputed_epsilon(plan, len(survivors) + untold)
    shared = plan.shared
    counts = Counter(survivors) + Counter({shared.min_survivors: untold})
    share = _planned_variance(plan) / (shared.min_survivors - shared.colluding)
    return skellam_epsilon_by_sum(
        l1=shared.sensitivity.l1,
        l2=shared.sensitivity.l2,
        releases={share * (sites - shared.colluding): count for sites, count in counts.items()},
        delta=plan.delta,
    )


def _planned_variance(plan: SharedSitePlan) -> float:
    return (plan.mechanism.multiplier * plan.shared.sensitivity.l2) ** 2


def _plan(course: Course, history: History) -> AuditedPlan:
    begun = course.begun
    charged = begun.plan.as_charged()
    sums = history.sums.get(begun.run, ()) if begun.purpose == "training" else ()
    return AuditedPlan(
        entry=course.entry,
        run=begun.run,
        purpose=begun.purpose,
        dataset=begun.dataset,
        plan=begun.plan,
        taken=course.taken,
        charges=course.charges,
        closed=course.closed,
        keyed=begun.keyed,
        epsilon=begun.cost.epsilon / NATS,
        recomputed=recomputed_epsilon(charged, charged.steps),
        summed=sums[-1].epsilon if sums else None,
    )


def _dataset(history: History, number: int) -> AuditedDataset:
    registered = history.datasets[number]
    epsilon = history.epsilon(number)
    return AuditedDataset(
        number=number,
        fingerprint=registered.fingerprint,
        examples=registered.examples,
        epsilon=epsilon if math.isfinite(epsilon) else None,
    )
