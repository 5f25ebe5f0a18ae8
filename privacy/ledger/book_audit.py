"""An auditor's reading of a book: each site's ledger, one after another, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import LedgerError
from privacy.ledger.ledger_audit import LedgerAudit, audit_entries
from privacy.ledger.ledger_book import Pages, copied_book


@dataclass(frozen=True, kw_only=True)
class BrokenLedger:
    """A site's ledger that did not pass: its first wrong entry, if it is one, and what is wrong."""

    site: str
    entry: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class LargestLoss:
    """What the example has lost that has lost most: ``epsilon`` of a ``budget``, None without bound."""

    site: str
    epsilon: float | None
    budget: float


@dataclass(frozen=True, kw_only=True)
class BookAudit:
    """What the ledgers of a book come to. What is counted is of those that passed.

    ``sites`` are all. ``largest`` is None where no data set is registered.
    """

    sites: int
    entries: int
    charges: int
    largest: LargestLoss | None
    broken: tuple[BrokenLedger, ...]


def audit_book(path: Path) -> BookAudit:
    """Verify each site's ledger as ``audit_ledger`` does, and say what they come to, and which are broken.

    One ledger is in memory at a time. Raises LedgerError if the book itself cannot be read.
    """
    sites = entries = charges = 0
    largest: LargestLoss | None = None
    broken = []
    for site, found in _audits(path):
        sites += 1
        if isinstance(found, LedgerError):
            broken.append(BrokenLedger(site=site, entry=found.entry, reason=str(found)))
            continue
        entries += len(found.entries)
        charges += sum(plan.charges for plan in found.plans)
        for dataset in found.datasets:
            loss = LargestLoss(site=site, epsilon=dataset.epsilon, budget=found.budget.epsilon)
            if largest is None or _epsilon(loss) > _epsilon(largest):
                largest = loss
    return BookAudit(sites=sites, entries=entries, charges=charges, largest=largest, broken=tuple(broken))


def audits_of_book(path: Path) -> Iterator[LedgerAudit]:
    """Each site's audited ledger, one after another. Raises LedgerError naming the first broken one."""
    for site, found in _audits(path):
        if isinstance(found, LedgerError):
            named = LedgerError(f"site {site}: {found}")
            named.entry = found.entry
            raise named from found
        yield found


def _audits(path: Path) -> Iterator[tuple[str, LedgerAudit | LedgerError]]:
    with copied_book(path) as book:
        for site in book.sites():
            try:
                yield site, _audit(book.pages(site), site)
            except LedgerError as error:
                yield site, error


def _audit(pages: Pages, site: str) -> LedgerAudit:
    audit = audit_entries(pages)
    if audit.site != site:
        raise LedgerError(f"it is of site {audit.site}", entry=1)
    if not audit.complete:
        # A book has the heads with the entries: nobody hands one on without them.
        raise LedgerError("its signed head is lost: it tells whether entries were cut off")
    return audit


def _epsilon(loss: LargestLoss) -> float:
    return float("inf") if loss.epsilon is None else loss.epsilon
