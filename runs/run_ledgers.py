"""What sites' ledgers tell of a run, compared with what it left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from privacy.errors import AuditError, LedgerError
from privacy.ledger.book_audit import audits_of_book
from privacy.ledger.entries import Begun, Released, Summed, Unprotected
from privacy.ledger.ledger_audit import LedgerAudit, audit_ledger
from privacy.ledger.ledger_book import BOOK
from privacy.ledger.receipt import Receipt

# What is compared, what is said of it, and what must be.
Compared: TypeAlias = tuple[str, object, object]


def check_values(where: str, *values: Compared) -> None:
    """Raises AuditError that says ``where`` the first is otherwise."""
    for what, got, wanted in values:
        if got != wanted:
            raise AuditError(f"{where}: its {what} is wrong: expected {wanted}, got {got}")


def ledgers_by_site(ledgers: Iterable[Path], keys: Mapping[str, bytes]) -> dict[str, LedgerAudit]:
    """The ledgers by site. Raises AuditError for one that is of no site of the run."""
    names = {key.hex(): name for name, key in keys.items()}
    found = {}
    for path, audit in _audits(ledgers):
        if audit.public_key not in names:
            raise AuditError(f"{path} is the ledger of a site {audit.site} whose key is none of this run's")
        site = names[audit.public_key]
        if site in found:
            raise AuditError(f"{path} is a second ledger of {site}: give one")
        found[site] = audit
    return found


def _audits(paths: Iterable[Path]) -> Iterator[tuple[Path, LedgerAudit]]:
    for path in paths:
        if path.name == BOOK:
            yield from ((path, audit) for audit in audits_of_book(path))
        else:
            yield path, _audit_ledger(path)


def _audit_ledger(path: Path) -> LedgerAudit:
    """Raises LedgerError that says which ledger it is about."""
    try:
        return audit_ledger(path)
    except LedgerError as error:
        named = LedgerError(f"{path}: {error}")
        named.entry = error.entry
        raise named from error


def check_ledger(receipt: Receipt, ledger: LedgerAudit, where: str) -> None:
    """The ledger must hold the receipt's plan and charge, no later than the entry that it names.

    Of a round that was interrupted and repeated the last charge counts.
    """
    numbers = {entry.hash: entry.number for entry in ledger.entries}
    if receipt.head not in numbers:
        raise AuditError(
            f"{where}: its ledger has no entry {receipt.head[:16]}…, which the receipt names as its last: "
            "entries are lost, or it is another ledger"
        )
    taken = None
    for entry in ledger.entries[: numbers[receipt.head]]:
        event = entry.event
        if isinstance(event, Begun) and (event.run, event.purpose) == (receipt.run, receipt.purpose):
            check_values(
                where,
                ("manifest, by its ledger,", receipt.manifest, event.manifest),
                ("plan, by its ledger,", receipt.plan, event.plan),
            )
        elif isinstance(event, Released):
            if (event.run, event.purpose, event.round) == (receipt.run, receipt.purpose, receipt.round):
                taken = event.taken
        elif isinstance(event, Unprotected):
            charge = (event.run, event.manifest, event.round, "training")
            if charge == (receipt.run, receipt.manifest, receipt.round, receipt.purpose):
                taken = receipt.taken
    if taken is None:
        raise AuditError(f"{where}: its ledger holds no charge for it")
    check_values(where, ("count of steps, by its ledger,", receipt.taken, taken))


def check_sum(receipt: Receipt, ledger: LedgerAudit, present: int, where: str) -> None:
    """What the ledger tells of the round's sum must be what the coordinator recorded.

    A site that did not help to uncover it has not told. What it told before the receipt's charge is of a
    sum that was interrupted.
    """
    charged = next(entry.number for entry in ledger.entries if entry.hash == receipt.head)
    for entry in ledger.entries[charged:]:
        event = entry.event
        if isinstance(event, Summed) and (event.run, event.round) == (receipt.run, receipt.round):
            check_values(where, ("number of sites, by its ledger,", present, event.survivors))
