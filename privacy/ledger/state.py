"""What a ledger's entries add up to, one after another, and whether each may stand where it does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from privacy.accounting.plan import Plan, summed_plan
from privacy.errors import FrozenError, LedgerError, OverdrawnError, PlanError
from privacy.ledger.budget import Budget, Spent
from privacy.ledger.dataset_overlap import DIGEST_BYTES, combinations, fingerprint
from privacy.ledger.entries import (
    GENESIS,
    VERSION,
    Approved,
    Begun,
    ClockSet,
    Closed,
    Created,
    Entry,
    Event,
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
from privacy.ledger.freezing import Freeze

# How many refusals are written down: of one run, and of all since something was last allowed. Whoever asks
# without end would fill the disk, uncharged.
MOST_REFUSALS_OF_A_RUN = 8
MOST_REFUSALS = 64


@dataclass(frozen=True, kw_only=True)
class Course:
    """How far a plan has come: the steps that it has ``taken``, in how many ``charges``."""

    begun: Begun
    entry: int
    taken: int = 0
    charges: int = 0
    closed: bool = False

    @property
    def plan(self) -> Plan:
        return self.begun.plan


class History:
    """The state that a chain of entries leaves, rebuilt by ``add`` one at a time.

    ``members`` gives each data set's sorted keyed digests, end to end. Data sets that share examples
    share what those have lost: a plan fits if every example of its data set can bear it on top of all plans
    on all data sets that it is in. Examples in the same data sets have spent the same, so it is enough to
    look at each combination of data sets once.
    """

    def __init__(self, members: Mapping[int, bytes]) -> None:
        self._members = members
        self._created: Created | None = None
        self._budget: Budget | None = None
        self.last: Entry | None = None
        self.length = 0
        self.head = GENESIS
        self.freeze = Freeze()
        self.datasets: dict[int, Registered] = {}
        self.courses: dict[tuple[str, Purpose], Course] = {}
        self.approved: set[str] = set()
        self.refused: set[tuple[str, str]] = set()  # manifest and rule
        self.charged: dict[str, str] = {}  # the run of each manifest that something was reserved for
        self._refused_of: Counter[str] = Counter()  # a run
        self._refused_since = 0
        self.sums: dict[str, tuple[Summed, ...]] = {}  # of each run, in their order
        self._charges_of: Counter[tuple[str, int]] = Counter()  # of a run's round, for its training
        self._taken_after: dict[tuple[str, Purpose, int], int] = {}
        self._totals: dict[int, Spent] = {}
        self._unprotected: dict[int, str] = {}
        self._combinations: dict[int, tuple[int, frozenset[frozenset[int]]]] = {}

    @property
    def created(self) -> Created:
        if self._created is None:
            raise LedgerError("the ledger is empty", entry=1)
        return self._created

    @property
    def budget(self) -> Budget:
        """What is allowed now, for each data set."""
        if self._budget is None:
            raise LedgerError("the ledger is empty", entry=1)
        return self._budget

    def spent(self, dataset: int) -> Spent:
        """What plans on this very data set cost."""
        return self._totals.get(dataset, Spent())

    def heaviest(self, dataset: int) -> Spent:
        """What the example that has lost most has lost, by the filter, over all data sets that it is in."""
        loads = list(self._loads(dataset))
        return max(loads, key=lambda spent: (self.budget.epsilon_of(spent), spent.renyi))

    def epsilon(self, dataset: int) -> float:
        """ε that the example that has lost most has lost, by the filter; infinite where no bound holds."""
        if self.unprotected(dataset) is not None:
            return math.inf
        return self.budget.epsilon_of(self.heaviest(dataset))

    def unprotected(self, dataset: int) -> str | None:
        """The run that released something of these examples without noise, if one did."""
        for combination in self._combined(dataset):
            for number in combination:
                if number in self._unprotected:
                    return self._unprotected[number]
        return None

    def check_fits(self, dataset: int, extra: Spent) -> None:
        """Raises OverdrawnError unless every example of the data set can bear ``extra`` on top."""
        run = self.unprotected(dataset)
        if run is not None:
            raise OverdrawnError(
                f"run {run} released this data without noise: no bound can hold for it any more"
            )
        for load in self._loads(dataset):
            if not self.budget.admits(load + extra):
                raise OverdrawnError(self._too_much(load, extra))

    def add(self, entry: Entry) -> None:
        """Take the next entry. Raises LedgerError, and takes nothing, if it may not stand here."""
        number = self.length + 1
        if entry.number != number:
            raise LedgerError(f"expected entry {number}, got {entry.number}", entry=number)
        if entry.previous != self.head:
            raise LedgerError("it does not continue the entry before it", entry=number)
        self._check_time(entry)
        if (self.length == 0) != isinstance(entry.event, Created):
            raise LedgerError("a ledger begins with its creation, once", entry=number)
        try:
            if isinstance(entry.event, Begun | Released | Unprotected):
                self.freeze.check()
            self._apply(number, entry.event)
        except OverdrawnError as error:
            raise LedgerError(f"it goes beyond the budget: {error}", entry=number) from error
        except FrozenError as error:
            raise LedgerError(f"it spends, and {error}", entry=number) from error
        except PlanError as error:
            raise LedgerError(f"it sets a budget that cannot be: {error}", entry=number) from error
        self.last, self.length, self.head = entry, number, entry.hash

    def _check_time(self, entry: Entry) -> None:
        if self.last is None:
            return
        if isinstance(entry.event, ClockSet):
            self._expect(entry.number, "time before", entry.event.before, self.last.time)
        elif entry.time < self.last.time:
            raise LedgerError("it is older than the entry before it", entry=entry.number)

    def _apply(self, number: int, event: Event) -> None:
        if isinstance(event, Created):
            if event.version != VERSION:
                raise LedgerError(
                    f"it is of version {event.version} of the ledger; this Confide reads version {VERSION}",
                    entry=number,
                )
            self._created, self._budget = event, event.budget
        elif isinstance(event, Rebudgeted):
            self._budget = replace(self.budget, epsilon=event.epsilon)
        elif isinstance(event, Registered):
            digests = self._members.get(number, b"")
            self._expect(number, "fingerprint", event.fingerprint, fingerprint(digests))
            self._expect(number, "number of examples", event.examples, len(digests) // DIGEST_BYTES)
            self.datasets[number] = event
        elif isinstance(event, Begun):
            self._begin(number, event)
        elif isinstance(event, Released):
            self._release(number, event)
        elif isinstance(event, Summed):
            self._sum(number, event)
        elif isinstance(event, Closed):
            self._close(number, event)
        elif isinstance(event, Unprotected):
            self._known(number, event.dataset)
            self._unprotected.setdefault(event.dataset, event.run)
            self.charged[event.manifest] = event.run
        elif isinstance(event, Approved | Refused):
            self._decide(event)
        elif isinstance(event, Frozen | Unfrozen):
            self.freeze.take(number, event)
        elif not isinstance(event, ClockSet):
            raise LedgerError(f"no such event: {event!r}", entry=number)

    def _decide(self, event: Approved | Refused) -> None:
        if isinstance(event, Approved):
            self.approved.add(event.manifest)
            self._refused_since = 0
        else:
            self.refused.add((event.manifest, event.rule))
            self._refused_of[event.run] += 1
            self._refused_since += 1

    def _begin(self, number: int, event: Begun) -> None:
        self._known(number, event.dataset)
        key = (event.run, event.purpose)
        if key in self.courses:
            raise LedgerError(f"run {event.run} has begun its {event.purpose} already", entry=number)
        if self.ended(event.run):
            raise LedgerError(f"run {event.run} begins its {event.purpose} after its end", entry=number)
        self._expect(number, "total", event.spent, self.spent(event.dataset) + event.cost)
        if event.keyed:
            self._unprotected.setdefault(event.dataset, event.run)
        else:
            self.check_fits(event.dataset, event.cost)
        self.courses[key] = Course(begun=event, entry=number)
        self.charged[event.manifest] = event.run
        self._refused_since = 0
        self._totals[event.dataset] = event.spent

    def _release(self, number: int, event: Released) -> None:
        course = self.course(event.run, event.purpose)
        taken = course.taken + event.steps
        self._expect(number, "data set", event.dataset, course.begun.dataset)
        self._expect(number, "count of steps", event.taken, taken)
        self._expect(number, "total", event.spent, self.spent(event.dataset))
        if event.steps < 1 or taken > course.plan.steps or course.closed:
            raise LedgerError(f"run {event.run} takes steps that it never planned", entry=number)
        if course.plan.hides_sites and event.steps != 1:
            raise LedgerError(
                f"a round of run {event.run} is one sum, not steps={event.steps}", entry=number
            )
        if not course.begun.keyed:
            self.check_fits(event.dataset, Spent())  # the custodian may have lowered the budget since
        course = replace(course, taken=taken, charges=course.charges + 1)
        self.courses[event.run, event.purpose] = course
        self._taken_after[event.run, event.purpose, event.round] = taken
        if event.purpose == "training":
            self._charges_of[event.run, event.round] += 1

    def _sum(self, number: int, event: Summed) -> None:
        course = self.course(event.run, "training")
        self._expect(number, "data set", event.dataset, course.begun.dataset)
        if self.told(event.run, event.round):
            raise LedgerError(
                f"run {event.run} has no charge of round {event.round} whose sum is to come", entry=number
            )
        if event.survivors < 1 or not 0.0 <= event.epsilon < math.inf:
            raise LedgerError(
                f"it tells of survivors={event.survivors}, epsilon={event.epsilon}", entry=number
            )
        try:
            self.epsilon_of_sums(event.run, event.survivors)
        except PlanError as error:
            raise LedgerError(f"it tells of a sum that cannot be: {error}", entry=number) from error
        self.sums[event.run] = (*self.sums.get(event.run, ()), event)

    def _close(self, number: int, event: Closed) -> None:
        course = self.course(event.run, event.purpose)
        self._expect(number, "data set", event.dataset, course.begun.dataset)
        self._expect(number, "count of steps", event.taken, course.taken)
        if course.closed:
            raise LedgerError(f"run {event.run} has ended already", entry=number)
        self._expect(number, "total", event.spent, self.total_if_closed(course))
        self.courses[event.run, event.purpose] = replace(course, closed=True)
        self._totals[event.dataset] = event.spent

    @property
    def refused_enough(self) -> bool:
        """Whether no refusal is written down until a plan begins, or the custodian approves a run."""
        return self._refused_since >= MOST_REFUSALS

    def writes(self, event: Refused) -> bool:
        """Whether a refusal tells what is not there yet, and there is room for it."""
        if (event.manifest, event.rule) in self.refused or self.refused_enough:
            return False
        return self._refused_of[event.run] < MOST_REFUSALS_OF_A_RUN

    def course(self, run: str, purpose: Purpose) -> Course:
        """How far a run's plan has come. Raises LedgerError if it never began."""
        if (run, purpose) not in self.courses:
            raise LedgerError(f"run {run} has not begun its {purpose}", entry=self.length + 1)
        return self.courses[run, purpose]

    def ended(self, run: str) -> bool:
        """Whether the custodian has ended a run for good."""
        return any(course.closed for (name, _), course in self.courses.items() if name == run)

    def taken_after(self, run: str, purpose: Purpose, round_number: int) -> int | None:
        """The steps that a plan had taken after a round's last charge; None if it was never charged."""
        return self._taken_after.get((run, purpose, round_number))

    def told(self, run: str, round_number: int) -> bool:
        """Whether every charge of a round has its sum, as one has that was never charged."""
        sums = sum(summed.round == round_number for summed in self.sums.get(run, ()))
        return sums >= self._charges_of[run, round_number]

    def epsilon_of_sums(self, run: str, *more: int) -> float:
        """ε of a run's sums so far and of ``more`` survivors; a charge without its sum counts as planned.

        Never more than the run's plan says for as many steps. Raises LedgerError if the run never began,
        PlanError if its plan does not hide sites, and for survivors that it rules out.
        """
        course = self.course(run, "training")
        plan = summed_plan(course.plan)
        survivors = (*(summed.survivors for summed in self.sums.get(run, ())), *more)
        untold = course.taken - len(survivors)
        return min(plan.epsilon_of_summed(survivors, untold=untold), plan.epsilon_after(course.taken))

    def total_if_closed(self, course: Course) -> Spent:
        """The data set's total once this plan ends where it is."""
        total, cost = self.spent(course.begun.dataset), course.begun.cost
        plan = course.plan
        kept = cost.share(plan.draws_if_ended(course.taken), of=plan.draws(plan.steps))
        return total - cost + kept

    def _known(self, number: int, dataset: int) -> None:
        if dataset not in self.datasets:
            raise LedgerError(f"it charges a data set that was never registered: {dataset}", entry=number)

    @staticmethod
    def _expect(number: int, what: str, got: object, expected: object) -> None:
        if got != expected:
            raise LedgerError(f"its {what} is wrong: expected {expected}, got {got}", entry=number)

    def _loads(self, dataset: int) -> Iterator[Spent]:
        for combination in self._combined(dataset):
            yield sum((self.spent(number) for number in combination), Spent())

    def _combined(self, dataset: int) -> frozenset[frozenset[int]]:
        """The sets of data sets that examples of this one are in. Raises LedgerError if it is none."""
        if dataset not in self.datasets:
            raise LedgerError(f"data set {dataset} was never registered")
        count, known = self._combinations.get(dataset, (0, frozenset()))
        if count != len(self.datasets):
            known = combinations(self._members, dataset, among=self.datasets)
            self._combinations[dataset] = (len(self.datasets), known)
        return known

    def _too_much(self, load: Spent, extra: Spent) -> str:
        budget = self.budget
        return (
            f"the data's budget is epsilon={budget.epsilon:g} at delta={budget.delta:g}; "
            f"epsilon={budget.epsilon_of(load):.3g} is spent, and with this plan it would be "
            f"epsilon={budget.epsilon_of(load + extra):.3g}"
        )
