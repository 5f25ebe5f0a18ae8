"""What sites' ledgers have left, and what it would be after a job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.session import plan_metrics, plan_training
from privacy.errors import BudgetError, PlanError
from privacy.ledger.entries import read_entry
from privacy.ledger.ledger import DATABASE
from privacy.ledger.ledger_file import copied
from privacy.ledger.state import History
from protocol.job.job import Job


@dataclass(frozen=True, kw_only=True)
class BudgetLeft:
    """One data set at a site: of a budget (``epsilon``, ``delta``), the ε ``spent``, and ``after`` the job.

    As the ledger's filter counts, for the example that has lost most. ``spent`` is None where the data were
    released without noise; ``after`` is None where the job would be refused, and ``refusal`` says why.
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


def read_budgets(homes: Iterable[Path], job: Job | None = None) -> tuple[BudgetLeft, ...]:
    """Read the ledger in each home, changing nothing: one answer a data set; ``after`` only with a job.

    Signatures are not verified here: that is for an audit. Raises LedgerError if one is missing or broken.
    """
    return tuple(found for home in homes for found in _read(home, job))


def _read(home: Path, job: Job | None) -> Iterator[BudgetLeft]:
    with copied(home / DATABASE) as file:
        history = History(file.members)
        for row in file.rows():
            history.add(read_entry(row.body, number=row.number))
        for number, dataset in history.datasets.items():
            after, refusal = (None, None) if job is None else _after(history, number, job, dataset.examples)
            spent = history.epsilon(number)
            yield BudgetLeft(
                site=history.created.site,
                home=str(home),
                dataset=number,
                examples=dataset.examples,
                epsilon=history.budget.epsilon,
                delta=history.budget.delta,
                spent=spent if math.isfinite(spent) else None,
                after=after,
                refusal=refusal,
            )


def _after(history: History, dataset: int, job: Job, examples: int) -> tuple[float | None, str | None]:
    """ε after the job, or why the site would refuse it."""
    if not job.privacy.protects:
        return None, "the job adds no noise"
    try:
        cost = history.budget.cost(
            plan_training(job, examples, rounds=job.most_rounds(sites=job.federation.sites))
        )
        metrics = plan_metrics(job)
        if metrics is not None:
            cost += history.budget.cost(metrics)
        history.check_fits(dataset, cost)
    except (BudgetError, PlanError) as error:
        return None, str(error)
    return history.budget.epsilon_of(history.heaviest(dataset) + cost), None
