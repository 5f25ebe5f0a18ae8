"""How a site is: its agent, what its data have left, and which runs wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.agent.health import ask_health
from client.budgets import BudgetLeft, read_budgets
from client.custody.home import Home
from client.custody.site_file import read_site_file
from privacy.ledger.ledger import DATABASE
from protocol.messages.confide_pb2 import AgentHealth


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A run that waits for the custodian, by its name and its manifest's SHA-256 as hex."""

    run: str
    manifest: str


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """What a custodian wants to know. ``agent`` is None where none answers."""

    site: str
    home: Path
    agent: AgentHealth | None
    budgets: tuple[BudgetLeft, ...]
    waiting: tuple[Waiting, ...]


def read_site_status(home: Path, path: Path) -> SiteStatus:
    """Look at a site, changing nothing, whether its agent runs or not.

    Raises PolicyFileError, LedgerError, and ProtocolError for a manifest that waits and is none.
    """
    site_file = read_site_file(path)
    return SiteStatus(
        site=site_file.site.name,
        home=home,
        agent=ask_health(home, site_file),
        budgets=read_budgets([home]) if (home / DATABASE).exists() else (),
        waiting=tuple(
            Waiting(run=manifest.run, manifest=manifest.digest.hex())
            for manifest in Home(home).manifests(pending=True)
        ),
    )
