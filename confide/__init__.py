"""Confide: fine-tune one model together without showing each other the data.

>>> import confide
>>> print(*(name for name in sorted(confide.__all__) if not name.startswith(("attack_", "audit_"))))
Run __version__ read_job resume run simulate statistics
>>> print(*(name for name in sorted(confide.__all__) if name.startswith("attack_")))
attack_inversion attack_membership
>>> print(*(name for name in sorted(confide.__all__) if name.startswith("audit_")))
audit_book audit_card audit_drift audit_empirically audit_ledger audit_log audit_run audit_sites
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from client.custody.processing_log import ProcessingLog
    from privacy.ledger.book_audit import BookAudit
    from privacy.ledger.ledger_audit import LedgerAudit
    from protocol.job.job import Job
    from runs.drift import Drift
    from runs.privacy_card import PrivacyCard
    from runs.run import Run
    from runs.run_audit import RunAudit
    from runs.statistics_folder import StatisticsRun
    from simulation.attack.empirical_audit import EmpiricalAudit
    from simulation.attack.inversion import Inversion
    from simulation.attack.membership_attack import MembershipAttack
    from simulation.attack.site_attack import SiteAudit
    from simulation.simulate import resume
    from tasks.registry import read_job

__version__ = version("confide")  # which pyproject.toml alone says
__all__ = [
    "Run",
    "__version__",
    "attack_inversion",
    "attack_membership",
    "audit_book",
    "audit_card",
    "audit_drift",
    "audit_empirically",
    "audit_ledger",
    "audit_log",
    "audit_run",
    "audit_sites",
    "read_job",
    "resume",
    "run",
    "simulate",
    "statistics",
]

# `import confide` must not load torch: each name's module is imported when it is first used.
_HOMES = {"Run": "runs.run", "resume": "simulation.simulate", "read_job": "tasks.registry"}


def simulate(job: Job | Path | str, **options: Any) -> Run:
    """Run a job, or a job file, with simulated sites. Options are those of simulation.simulate.simulate.

    Raises UserError for what the job's author can mend, RunError or SiteError for failures.
    """
    from simulation.simulate import simulate as simulate_job
    from tasks.registry import read_job

    return simulate_job(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def statistics(job: Job | Path | str, **options: Any) -> StatisticsRun:
    """Ask a job's ``[statistics]``, or a job file's, of simulated sites, which are charged for its noise.

    With ``coordinator=``, a coordinator's folder, it asks the sites of that federation. Options are those
    of simulation.simulated_statistics.ask_statistics, or of server.federated_statistics.ask_federation.
    Raises UserError for what the job's author can mend, SiteError where sites refuse.
    """
    from tasks.registry import read_job

    asked = read_job(Path(job)) if isinstance(job, str | Path) else job
    if "coordinator" in options:
        from server.federated_statistics import ask_federation

        return ask_federation(asked, **options)
    from simulation.simulated_statistics import ask_statistics

    return ask_statistics(asked, **options)


def run(job: Job | Path | str, **options: Any) -> Run:
    """Run a job, or a job file, with the sites of a federation.

    Options are those of server.federated_run.run. Raises UserError for what the job's author can mend,
    RunError or SiteError for failures.
    """
    from server.federated_run import run as run_job
    from tasks.registry import read_job

    return run_job(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def audit_ledger(home: Path | str, *, key: str | None = None, site: str | None = None) -> LedgerAudit:
    """Verify a ledger.db, or the one in a site's home, and that it is under ``key`` (hex) if you know it.

    ``site`` is the one meant of those in a simulation's book.db. Raises LedgerError naming the first wrong
    entry.
    """
    from privacy.ledger.ledger_audit import audit_ledger as audit

    return audit(_database(home), key=key, site=site)


def audit_book(path: Path | str) -> BookAudit:
    """Verify all ledgers in a simulation's book.db, or in the one of its sites' folder.

    What is wrong with one is in the answer. Raises LedgerError if the book itself cannot be read.
    """
    from privacy.ledger.book_audit import audit_book as audit

    return audit(_database(path))


def audit_card(path: Path | str, *, key: str | None = None) -> tuple[PrivacyCard, str]:
    """Verify an exported adapter's privacy card, by ``key`` (hex) if you know it; the card and its key.

    Raises AuditError for a card that was changed or that another key signed, and for other files.
    """
    from runs.privacy_card import check_card

    return check_card(Path(path), key=key)


def audit_log(home: Path | str, *, key: str | None = None, site: str | None = None) -> ProcessingLog:
    """A site's records of processing, from its ledger, which is verified first.

    ``key`` and ``site`` are as for ``audit_ledger``. Raises LedgerError naming the first wrong entry.
    """
    from client.custody.processing_log import read_processing_log

    return read_processing_log(_database(home), key=key, site=site)


def audit_run(run: Path | str, *, ledgers: Iterable[Path | str] = ()) -> RunAudit:
    """Check a run's receipts, and the ledgers of its sites that are given.

    Raises AuditError naming the first round and site that are wrong, and LedgerError.
    """
    from runs.run_audit import audit_run as audit
    from runs.run_folder import RunFolder

    return audit(RunFolder.open(Path(run)), [_database(path) for path in ledgers])


def audit_drift(first: Path | str, second: Path | str, data: Path | str) -> Drift:
    """Compare what the newest adapters of two runs go by, on the held-out examples in the file ``data``.

    It takes Captum. Raises UserError for runs that cannot be compared, DataError for a file that cannot be
    read.
    """
    from runs.drift import find_drift
    from runs.run_folder import RunFolder

    return find_drift(RunFolder.open(Path(first)), RunFolder.open(Path(second)), Path(data))


def audit_empirically(job: Job | Path | str, **options: Any) -> EmpiricalAudit:
    """Run a job, or a job file, once with canaries at a simulated site, and attack what is released.

    Options are those of simulation.attack.empirical_audit.audit_empirically. What is shown and what is
    claimed are in the answer, whose ``check`` raises AuditError if the claim is refuted. Raises UserError
    for what the job's author can mend.
    """
    from simulation.attack.empirical_audit import audit_empirically as audit
    from tasks.registry import read_job

    return audit(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def audit_sites(job: Job | Path | str, **options: Any) -> SiteAudit:
    """Run a job, or a job file, that hides whole sites once with sites as canaries, and attack the sums.

    Options are those of simulation.attack.site_attack.audit_sites. The answer's ``check`` raises AuditError
    if the claim is refuted. Raises UserError for what the job's author can mend.
    """
    from simulation.attack.site_attack import audit_sites as audit
    from tasks.registry import read_job

    return audit(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def attack_membership(job: Job | Path | str, **options: Any) -> MembershipAttack:
    """Tell which examples were in a run of a job, or a job file, by what it released.

    Options are those of simulation.attack.membership_attack.attack_membership. The answer's ``check``
    raises AuditError if what was told refutes the claimed ε. Raises UserError for what the job's author
    can mend.
    """
    from simulation.attack.membership_attack import attack_membership as attack
    from tasks.registry import read_job

    return attack(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def attack_inversion(job: Job | Path | str, **options: Any) -> Inversion:
    """Recover words of single texts from a step of a job, or a job file, as its coordinator reads it.

    Options are those of simulation.attack.inversion.attack_inversion. Raises UserError for what the job's
    author can mend.
    """
    from simulation.attack.inversion import attack_inversion as attack
    from tasks.registry import read_job

    return attack(read_job(Path(job)) if isinstance(job, str | Path) else job, **options)


def _database(path: Path | str) -> Path:
    from privacy.ledger.ledger import DATABASE
    from privacy.ledger.ledger_book import find_book

    place = Path(path)
    return find_book(place) or (place / DATABASE if place.is_dir() else place)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'confide' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
