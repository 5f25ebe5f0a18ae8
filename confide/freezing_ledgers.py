"""What an audit's verdict does to ledgers: one that is refuted freezes those it was told to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from privacy.errors import AuditError, ConfideError

if TYPE_CHECKING:
    from client.custody.home import Home
    from simulation.attack.empirical_audit import EmpiricalAudit


def homes_to_freeze(places: Iterable[Path]) -> Mapping[Path, Home]:
    """The homes that a person means by naming them, or a site.toml in one. Raises LedgerError.

    They are looked at before an audit begins: one that could not be frozen is named at once.
    """
    from client.custody.home import Home
    from client.custody.site_file import find_home

    homes = {place: Home(find_home(place)) for place in places}
    for home in homes.values():
        home.site_name()
    return homes


def check_and_freeze(audit: EmpiricalAudit, homes: Mapping[Path, Home]) -> None:
    """Raises AuditError if the claim is refuted, naming the attack and the ledgers that are frozen now."""
    from simulation.attack.evidence import evidence

    try:
        audit.check()
    except AuditError as error:
        told = [str(error)]
        for place, home in homes.items():
            try:
                home.freeze(job=audit.job, reason=str(error), evidence=evidence(audit))
            except (ConfideError, OSError) as failure:  # the others are frozen all the same
                told.append(f"the ledger at {place} could not be frozen: {failure}")
            else:
                told.append(
                    f"the ledger at {place} is frozen until a person clears it (confide site unfreeze)"
                )
        raise AuditError("; ".join(told)) from error
