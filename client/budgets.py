"""What sites' ledgers have left, and what it would be after a job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.session import plan_metrics, plan_training
from privacy.accounting.training_plan import TrainingPlan
from privacy.errors import BudgetError, FrozenError, LedgerError, PlanError
from privacy.ledger.chain import EntryFile
from privacy.ledger.entries import read_entry
from privacy.ledger.ledger import DATABASE
from privacy.ledger.ledger_book import copied_book, find_book
from privacy.ledger.ledger_file import copied
from privacy.ledger.state import History
from protocol.job.job import Job


@dataclass(frozen=True, kw_only=True)
class BudgetLeft:
    """One data set at a site: of a budget (``epsilon``, ``delta``), the ε ``spent``, and ``after`` the job.

    As the ledger's filter counts, for the example that has lost most. ``spent`` is None where the data were
    released without noise; ``after`` is None where the job would be refused, and ``refusal`` says why.
    Nothing is spent here while the ledger is ``frozen``.
    """

    site: str
    home: str
    dataset: int
    examples: int
    epsilon: float
    delta: float
    spent: float | None
    after: float | None
    refusal: str | None
    frozen: bool = False


def read_budgets(
    homes: Iterable[Path], job: Job | None = None, *, site: str | None = None
) -> tuple[BudgetLeft, ...]:
    """Read the ledger in each home, changing nothing: one answer a data set; ``after`` only with a job.

    A home may also be a simulation's book, or the folder that it is in: of each site in it, or of ``site``
    alone. Signatures are not verified here: that is for an audit. Raises LedgerError if a ledger is missing
    or broken.
    """
    planned = None if job is None else _Planned(job)
    return tuple(found for home in homes for found in _read(home, planned, site))


class _Planned:
    """A job, and its plan for each number of examples, which is sought once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._rounds = job.most_rounds(sites=job.federation.sites)
        self._plans: dict[int, TrainingPlan] = {}

    def plan(self, examples: int) -> TrainingPlan:
        """Raises PlanError if none exists, or if it depends on more than the number of examples."""
        if self.job.data.mix:
            raise PlanError(
                "data.mix: a ledger does not know how many examples are of which source: `confide plan` "
                "without a home says what each source loses"
            )
        if examples not in self._plans:
            self._plans[examples] = plan_training(self.job, examples, rounds=self._rounds)
        return self._plans[examples]


def _read(home: Path, job: _Planned | None, site: str | None) -> Iterator[BudgetLeft]:
    path = find_book(home)
    if path is None:
        with copied(home / DATABASE) as file:
            yield from _left(file, home, job, site)
        return
    with copied_book(path) as book:
        names = book.sites() if site is None else (site,)
        for name in names:
            try:
                yield from _left(book.pages(name), home, job, name)
            except LedgerError as error:
                raise LedgerError(f"{path}, site {name}: {error}") from error


def _left(file: EntryFile, home: Path, job: _Planned | None, site: str | None) -> Iterator[BudgetLeft]:
    history = History(file.members)
    for row in file.rows():
        history.add(read_entry(row.body, number=row.number))
    begun_by = history.created.site
    if site is not None and begun_by != site:
        raise LedgerError(f"the ledger is of site {begun_by}, not of {site}")
    for number, dataset in history.datasets.items():
        after, refusal = (None, None) if job is None else _after(history, number, job, dataset.examples)
        spent = history.epsilon(number)
        yield BudgetLeft(
            site=begun_by,
            home=str(home),
            dataset=number,
            examples=dataset.examples,
            epsilon=history.budget.epsilon,
            delta=history.budget.delta,
            spent=spent if math.isfinite(spent) else None,
            after=after,
            refusal=refusal,
            frozen=history.freeze.by is not None,
        )


def _after(
    history: History, dataset: int, planned: _Planned, examples: int
) -> tuple[float | None, str | None]:
    """ε after the job, or why the site would refuse it."""
    if not planned.job.privacy.protects:
        return None, "the job adds no noise"
    try:
        history.freeze.check()
        cost = history.budget.cost(planned.plan(examples))
        metrics = plan_metrics(planned.job)
        if metrics is not None:
            cost += history.budget.cost(metrics)
        history.check_fits(dataset, cost)
    except (BudgetError, FrozenError, PlanError) as error:
        return None, str(error)
    return history.budget.epsilon_of(history.heaviest(dataset) + cost), None
