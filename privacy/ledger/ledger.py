"""The ledger: every release that leaves a site, written down before its noise is drawn."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.accounting.plan import Plan
from privacy.errors import BudgetError, LedgerError, PlanError
from privacy.identity import Identity
from privacy.ledger.budget import Budget, Spent, make_budget
from privacy.ledger.chain import Chain, EntryFile
from privacy.ledger.dataset_overlap import DIGEST_BYTES, fingerprint
from privacy.ledger.entries import (
    VERSION,
    Approved,
    Begun,
    ClockSet,
    Closed,
    Created,
    Frozen,
    Purpose,
    Rebudgeted,
    Refused,
    Registered,
    Released,
    Summed,
    Unfrozen,
    Unprotected,
)
from privacy.ledger.ledger_clock import is_off
from privacy.ledger.ledger_file import LedgerFile
from privacy.ledger.state import Course

DATABASE = "ledger.db"


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A round's steps of a plan on a data set. The first charge of a run begins its plan, whole.

    ``keyed`` is for noise that a simulation can draw again: repeating a round costs no steps, and nothing
    is protected.
    """

    dataset: int
    run: str
    manifest: str
    plan: Plan
    round: int
    steps: int
    purpose: Purpose = "training"
    keyed: bool = False


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """A charge that is on disk: ``taken`` steps of the plan after its round, and the ledger's ``head``."""

    taken: int
    head: str


class Ledger:
    """One site's ledger, for writing. Any number of processes may hold one on the same file.

    Guarantee: whatever is released after ``reserve`` returns, on whatever data sets, runs and manifests
    were chosen in the light of earlier releases, every example's loss stays within the budget (see
    ``privacy.ledger.budget``). Nothing reserved is ever given back but steps that a closed plan never took.

    Opening it verifies the chain and the last signature, which covers all before it. Raises LedgerError.
    """

    def __init__(self, chain: Chain, identity: Identity) -> None:
        self._chain = chain
        self._identity = identity

    @classmethod
    def open(
        cls,
        home: Path | EntryFile,
        *,
        site: str,
        identity: Identity,
        epsilon: float,
        delta: float,
        order: int | None = None,
        clock: Callable[[], float] = time.time,
        seen: float | None = None,
        accept_clock: bool = False,
        flush: bool = True,
    ) -> Ledger:
        """Open the ledger in a home, or in a book, or begin it with the budget of each of its data sets.

        ``seen`` is as in ``has_seen``. Whoever lets it ``accept_clock`` gives the custodian's word that the
        clock is right, which is written down where it is needed. Without ``flush`` the ledger outlasts a
        kill, and not a power cut: for simulated sites, whose run is lost with it. Raises LedgerError if the
        ledger is another site's or key's, or as ``keep_to`` does.
        """
        file = LedgerFile(home / DATABASE, create=True, flush=flush) if isinstance(home, Path) else home
        ledger = cls(Chain(file, identity, clock), identity)
        ledger.has_seen(seen)
        with ledger._chain.writing():
            if not ledger._chain.history.length:
                public = identity.public.hex()
                budget = make_budget(epsilon=epsilon, delta=delta, order=order)
                ledger._chain.add(Created(version=VERSION, site=site, public_key=public, budget=budget))
            begun_by = ledger._chain.history.created.site
            if begun_by != site:
                raise LedgerError(
                    f"the ledger is of site {begun_by}, not of {site}: each site has its own home"
                )
            last = ledger._chain.history.last
            if accept_clock and last and is_off(int(clock()), last=last.time, seen=seen):
                ledger._chain.add(ClockSet(before=last.time))
        ledger.keep_to(epsilon=epsilon, delta=delta, order=order)
        return ledger

    def keep_to(self, *, epsilon: float, delta: float, order: int | None = None) -> None:
        """Hold every charge from here on to what the custodian allows now.

        Another ε than the ledger's is written down. Without an ``order`` the ledger's own stands. Raises
        LedgerError for another δ or order: two of these would be two budgets for one loss.
        """
        for name, begun, asked in (
            ("delta", self.budget.delta, delta),
            ("order", self.budget.order, order or self.budget.order),
        ):
            if begun != asked:
                raise LedgerError(
                    f"the ledger was begun with {name}={begun:g}, and is asked for {name}={asked:g}: two "
                    "would be two budgets for one loss"
                )
        if self.budget.epsilon != epsilon:
            with self._chain.writing():
                if self.budget.epsilon != epsilon:
                    self._chain.add(Rebudgeted(epsilon=epsilon))

    def has_seen(self, moment: float | None) -> None:
        """Take note of a time that somebody else has signed, in seconds since 1970.

        The clock may be as far ahead as that, and not much further, without the custodian's word.
        """
        self._chain.has_seen(moment)

    def close(self) -> None:
        """Close the file; what is reserved is on disk anyway."""
        self._chain.close()

    @property
    def budget(self) -> Budget:
        return self._chain.history.budget

    def register(self, digests: Iterable[bytes]) -> int:
        """Write down a data set by its examples' digests and return its number.

        The digests are keyed with a secret of the site, sorted and kept without repetition, so that the
        same examples under another name or in another order are the same data set, and nobody who reads
        the ledger can try out what was in it.
        """
        joined = self._keyed(digests)
        with self._chain.writing():
            known = self._numbered(fingerprint(joined))
            if known is not None:
                return known
            number = self._chain.history.length + 1
            self._chain.append_members(number, joined)
            self._chain.add(
                Registered(fingerprint=fingerprint(joined), examples=len(joined) // DIGEST_BYTES)
            )
            return number

    def find(self, digests: Iterable[bytes]) -> int | None:
        """The number of a data set, by its examples' digests; None if it is not registered."""
        with self._chain.reading():
            return self._numbered(fingerprint(self._keyed(digests)))

    def _keyed(self, digests: Iterable[bytes]) -> bytes:
        key = self._identity.derive("example digests")
        keyed = {hmac.digest(key, digest, "sha256")[:DIGEST_BYTES] for digest in digests}
        return b"".join(sorted(keyed))

    def _numbered(self, name: str) -> int | None:
        found = (
            number for number, known in self._chain.history.datasets.items() if known.fingerprint == name
        )
        return next(found, None)

    def check_fits(
        self, dataset: int, *, run: str, manifest: str, plan: Plan, metrics: Plan | None = None
    ) -> None:
        """Raises OverdrawnError if a run's plans, for training and metrics, could not begin or go on."""
        plans: list[tuple[Purpose, Plan]] = [("training", plan)]
        if metrics is not None:
            plans.append(("metrics", metrics))
        with self._chain.reading():
            begun = {purpose: self._course(run, manifest, one, purpose) for purpose, one in plans}
            costs = (self.budget.cost(one) for purpose, one in plans if begun[purpose] is None)
            self._chain.history.check_fits(dataset, sum(costs, Spent()))

    def reserve(self, charge: Charge) -> Reserved:
        """Write a charge to the disk; only then may its noise be drawn.

        With nothing spent, raises OverdrawnError if the plan does not fit in what is left, BudgetError if
        it has too few steps left, LedgerError if the ledger cannot be written or trusted.
        """
        with self._chain.writing():
            course = self._course(charge.run, charge.manifest, charge.plan, charge.purpose)
            if course is None:
                course = self._begin(charge)
            before = self._chain.history.taken_after(charge.run, charge.purpose, charge.round)
            if charge.keyed and before is not None and not course.closed:
                return Reserved(taken=before, head=self._chain.history.head)
            taken = course.taken + charge.steps
            if taken > charge.plan.steps or course.closed:
                planned = "has ended" if course.closed else f"planned for {charge.plan.steps} steps"
                raise BudgetError(
                    f"the run {planned} here and has taken {course.taken}; "
                    f"round {charge.round} needs {charge.steps} more"
                )
            if not charge.keyed:
                self._chain.history.check_fits(charge.dataset, Spent())
            self._chain.add(
                Released(
                    dataset=charge.dataset,
                    run=charge.run,
                    purpose=charge.purpose,
                    round=charge.round,
                    steps=charge.steps,
                    taken=taken,
                    spent=self._chain.history.spent(charge.dataset),
                )
            )
            return Reserved(taken=taken, head=self._chain.history.head)

    def taken(self, run: str) -> int:
        """How many steps of a run's training were ever reserved here, in whatever process."""
        with self._chain.reading():
            course = self._chain.history.courses.get((run, "training"))
            return 0 if course is None else course.taken

    def record_unprotected(self, *, dataset: int, run: str, manifest: str, round_number: int) -> str:
        """Write down a release without noise, and return the head. No plan fits this data afterwards."""
        with self._chain.writing():
            self._chain.add(Unprotected(dataset=dataset, run=run, manifest=manifest, round=round_number))
            return self._chain.history.head

    def record_summed(self, *, run: str, round_number: int, survivors: int) -> float:
        """Write down how many sites are in a round's sum, and return the run's ε by what was summed so far.

        Nothing is given back: the filter charges what was reserved. To tell the same again adds nothing.
        Raises LedgerError for a round that was never charged, for another number than was told before, and
        for fewer survivors than the plan's sums have.
        """
        with self._chain.writing():
            sums = [one for one in self._chain.history.sums.get(run, ()) if one.round == round_number]
            if sums and self._chain.history.told(run, round_number) and sums[-1].survivors == survivors:
                return sums[-1].epsilon
            course = self._chain.history.course(run, "training")
            try:
                epsilon = self._chain.history.epsilon_of_sums(run, survivors)
            except PlanError as error:
                raise LedgerError(f"run {run}, round {round_number}: {error}") from error
            dataset = course.begun.dataset
            self._chain.add(
                Summed(dataset=dataset, run=run, round=round_number, survivors=survivors, epsilon=epsilon)
            )
            return epsilon

    def close_run(self, run: str, purpose: Purpose = "training") -> int:
        """End a run's plan where it is, and return its data set. Raises LedgerError if it never began."""
        with self._chain.writing():
            course = self._chain.history.course(run, purpose)
            spent = self._chain.history.total_if_closed(course)
            dataset = course.begun.dataset
            if not course.closed:
                self._chain.add(
                    Closed(dataset=dataset, run=run, purpose=purpose, taken=course.taken, spent=spent)
                )
            return dataset

    def check_open(self) -> None:
        """Raises FrozenError if an audit has frozen the ledger, and no person has cleared that."""
        with self._chain.reading():
            self._chain.history.freeze.check()

    def record(self, event: Approved | Refused | Frozen | Unfrozen) -> None:
        """Write down what was decided here.

        A refusal that stands there already is not repeated, and one too many is left out (see
        ``privacy.ledger.state``): asking costs nothing, and so may not fill the disk.
        """
        with self._chain.writing():
            if not isinstance(event, Refused) or self._chain.history.writes(event):
                self._chain.add(event)

    def charged(self) -> Mapping[str, str]:
        """The run of each manifest, by its digest as hex, that anything was ever reserved for."""
        with self._chain.reading():
            return dict(self._chain.history.charged)

    def approved(self, manifest: str) -> bool:
        """Whether the custodian has approved a manifest, in whichever process."""
        with self._chain.reading():
            return manifest in self._chain.history.approved

    def check_holds(self, head: str) -> None:
        """Raises LedgerError unless an entry has this hash, which some receipt of the site names."""
        with self._chain.reading():
            if not self._chain.holds(head):
                raise LedgerError(
                    f"the ledger has no entry {head[:16]}…, which the coordinator knows from a receipt: "
                    "an older copy of the site's home was put back, or it answers from two homes; put the "
                    "newest one back whole, and nothing is lost"
                )

    def epsilon(self, dataset: int) -> float:
        """ε that the example of a data set that has lost most has lost; infinite where no bound holds."""
        with self._chain.reading():
            return self._chain.history.epsilon(dataset)

    def _course(self, run: str, manifest: str, plan: Plan, purpose: Purpose) -> Course | None:
        course = self._chain.history.courses.get((run, purpose))
        if course is not None and (course.begun.manifest, course.plan) != (manifest, plan):
            raise LedgerError(
                f"the ledger knows run {run} by another manifest or plan: give the run a new name"
            )
        return course

    def _begin(self, charge: Charge) -> Course:
        cost = self.budget.cost(charge.plan)
        if self._chain.history.ended(charge.run):
            raise BudgetError(f"the run has ended here; its {charge.purpose} cannot begin")
        if not charge.keyed:
            self._chain.history.check_fits(charge.dataset, cost)
        begun = Begun(
            dataset=charge.dataset,
            run=charge.run,
            manifest=charge.manifest,
            purpose=charge.purpose,
            plan=charge.plan,
            keyed=charge.keyed,
            cost=cost,
            spent=self._chain.history.spent(charge.dataset) + cost,
        )
        self._chain.add(begun)
        return self._chain.history.course(charge.run, charge.purpose)
