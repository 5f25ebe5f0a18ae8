"""An auditor's reading of a run: its receipts against its manifest and against the sites' ledgers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import AuditError, PlanError, ProtocolError, RunError
from privacy.ledger.entries import Event, Released, Unprotected
from privacy.ledger.ledger_audit import LedgerAudit, agrees, recomputed_epsilon
from privacy.ledger.receipt import Receipt
from protocol.job.manifest import Manifest
from protocol.job.phases import Phase
from runs.asked_folder import ReceiptsOf
from runs.receipts import check_goes_on, check_metrics_receipt, check_receipt, miscounted
from runs.run_folder import RoundRecord, RunFolder
from runs.run_ledgers import Compared, check_ledger, check_sum, check_values, ledgers_by_site


@dataclass(frozen=True, kw_only=True)
class AuditedSite:
    """One site of a run. ε is None without noise. Steps of its own after the last round are in it.

    ``charged`` counts the rounds in its ledger, None if that was not given: more than ``rounds`` means
    that some were interrupted and paid for.
    """

    site: str
    rounds: int
    taken: int
    planned: int
    epsilon: float | None
    recomputed: float | None
    charged: int | None


@dataclass(frozen=True, kw_only=True)
class RunAudit:
    """A run that passed: every receipt fits the manifest, and the ledgers that were given.

    ``metrics`` is the ε that each site's metrics cost beside its training, None if none were released.
    ``phases`` are the manifest's, empty if it has none: each receipt is of a round of its phase's steps.
    """

    run: str
    manifest: str
    rounds: int
    epsilon: float
    delta: float
    sites: tuple[AuditedSite, ...]
    metrics: float | None = None
    phases: tuple[Phase, ...] = ()


def audit_run(folder: RunFolder, ledgers: Iterable[Path] = ()) -> RunAudit:
    """Check the receipts of each finished round and of the metrics, and that the ledgers tell the same.

    Raises AuditError naming the first round and site that are wrong, and LedgerError for a ledger that is.
    """
    manifest, records, keys = folder.manifest, folder.records(), folder.public_keys
    told = ledgers_by_site(ledgers, keys)
    if not manifest.min_survivors <= len(keys) <= manifest.site_count:
        raise AuditError(
            f"the manifest is for {manifest.site_count} sites, at least {manifest.min_survivors} in each "
            f"round, and {len(keys)} joined"
        )
    latest: dict[str, Receipt] = {}
    for number, record in enumerate(records, start=1):
        where = f"round {number}"
        if record.round != number:
            raise AuditError(f"{where}: rounds.jsonl has round {record.round} in its place")
        _check_sites(record, manifest, keys, latest, where)
        present = {site: keys[site] for site in record.present}
        for site, receipt in _receipts(folder, number, present, where):
            spent = record.epsilon.get(site)
            _check_receipt(receipt, site, number, spent, manifest, latest.get(site), f"{where}, {site}")
            if site in told:
                check_ledger(receipt, told[site], f"{where}, {site}")
                check_sum(receipt, told[site], len(record.present), f"{where}, {site}")
            latest[site] = receipt
    measured = _audit_metrics(folder, manifest, keys, told, latest)
    if measured and manifest.job.training.personal_steps:
        latest |= _audit_own_steps(folder, manifest, measured, told, latest)
    return RunAudit(
        run=manifest.run,
        manifest=manifest.digest.hex(),
        rounds=len(records),
        epsilon=manifest.job.privacy.epsilon,
        delta=manifest.job.privacy.delta,
        sites=tuple(
            _line(
                latest[site],
                sum(site in record.present for record in records),
                _charged(told.get(site), manifest),
            )
            for site in sorted(latest)
        ),
        metrics=manifest.job.metrics.epsilon if measured else None,
        phases=manifest.job.phases if manifest.job.phase else (),
    )


def _check_sites(
    record: RoundRecord,
    manifest: Manifest,
    keys: Mapping[str, bytes],
    latest: Mapping[str, Receipt],
    where: str,
) -> None:
    """The round must tell of sites that joined, be of enough of them, and keep the ε of those absent."""
    if not record.epsilon.keys() <= keys.keys() or not set(record.absent) <= keys.keys():
        raise AuditError(f"{where}: rounds.jsonl tells of other sites than joined")
    if len(record.present) < manifest.min_survivors:
        raise AuditError(
            f"{where}: expected updates from at least {manifest.min_survivors} sites, "
            f"got {len(record.present)}"
        )
    drawn = {site for site in latest if manifest.draws(site, record.round)}
    for site in sorted((record.epsilon.keys() | drawn) - record.present):
        before = latest.get(site)
        if site not in record.epsilon or before is None or record.epsilon[site] != before.epsilon:
            raise AuditError(f"{where}: {site} is absent, and its epsilon is not that of its last receipt")


def _receipts(
    folder: RunFolder, of: ReceiptsOf, keys: Mapping[str, bytes], where: str
) -> Iterator[tuple[str, Receipt]]:
    """Each site and the receipt that it signed. Raises AuditError if one is missing or is not its own."""
    try:
        signed = folder.receipts(of)
    except RunError as error:
        raise AuditError(str(error)) from error
    if signed.keys() != keys.keys():
        missing = ", ".join(sorted(keys.keys() ^ signed.keys()))
        raise AuditError(f"{where}: expected one receipt from each site; it is otherwise for {missing}")
    for site in sorted(signed):
        try:
            yield site, signed[site].read(keys[site])
        except ProtocolError as error:
            raise AuditError(f"{where}, {site}: {error}") from error


def _audit_metrics(
    folder: RunFolder,
    manifest: Manifest,
    keys: Mapping[str, bytes],
    told: Mapping[str, LedgerAudit],
    latest: Mapping[str, Receipt],
) -> dict[str, bytes]:
    """Check the metrics' receipts. The keys of the sites that told them, none where a run ends without."""
    try:
        metrics = folder.metrics
        if metrics is None and not folder.receipts_path("metrics").exists():
            return {}
        # A kill may leave the receipts alone.
        told_by = set(folder.receipts("metrics") if metrics is None else metrics.told_by)
    except RunError as error:
        raise AuditError(str(error)) from error
    job = manifest.job
    if not job.metrics.epsilon > 0:
        raise AuditError("metrics: the manifest asks for none, and some were released")
    other = metrics is not None and metrics.epsilon != job.metrics.epsilon
    if other or not told_by <= keys.keys():
        raise AuditError("metrics: metrics.json is of another epsilon or of other sites than the manifest")
    if len(told_by) < manifest.min_survivors:
        raise AuditError(f"metrics: expected at least {manifest.min_survivors} sites, got {len(told_by)}")
    keys = {site: keys[site] for site in told_by}
    for site, receipt in _receipts(folder, "metrics", keys, "metrics"):
        where = f"metrics, {site}"
        check_values(
            where,
            *_identity(receipt, site, manifest),
            ("purpose", receipt.purpose, "metrics"),
            ("round", receipt.round, job.training.rounds),
        )
        with _found(where):
            check_metrics_receipt(receipt, manifest)
            check_goes_on(receipt, latest.get(site))
        if site in told:
            check_ledger(receipt, told[site], where)
    return keys


def _audit_own_steps(
    folder: RunFolder,
    manifest: Manifest,
    keys: Mapping[str, bytes],
    told: Mapping[str, LedgerAudit],
    latest: Mapping[str, Receipt],
) -> dict[str, Receipt]:
    """Check the receipts for the steps that sites took for themselves before they told their metrics."""
    metrics, where = folder.metrics, "own steps"
    if metrics is None and not folder.receipts_path("own-steps").exists():
        return {}  # a kill may leave the metrics' receipts alone
    checked, number = {}, manifest.job.training.rounds + 1
    for site, receipt in _receipts(folder, "own-steps", keys, where):
        spent = receipt.epsilon if metrics is None else metrics.spent.get(site)
        which = f"{where}, {site}"
        _check_receipt(receipt, site, number, spent, manifest, latest.get(site), which)
        if site in told:
            check_ledger(receipt, told[site], which)
        checked[site] = receipt
    return checked


@contextmanager
def _found(where: str) -> Iterator[None]:
    """What does not fit is found by the audit, and says where."""
    try:
        yield
    except ProtocolError as error:
        raise AuditError(f"{where}: {error}") from error


def _identity(receipt: Receipt, site: str, manifest: Manifest) -> tuple[Compared, ...]:
    return (
        ("site", receipt.site, site),
        ("run", receipt.run, manifest.run),
        ("manifest", receipt.manifest, manifest.digest.hex()),
    )


def _check_receipt(
    receipt: Receipt,
    site: str,
    number: int,
    recorded: float | None,
    manifest: Manifest,
    before: Receipt | None,
    where: str,
) -> None:
    """Check a receipt of training for round ``number``, of which the run has ``recorded`` that ε."""
    check_values(
        where,
        *_identity(receipt, site, manifest),
        ("purpose", receipt.purpose, "training"),
        ("round", receipt.round, number),
    )
    with _found(where):
        check_receipt(receipt, manifest)
        check_goes_on(receipt, before)
    file = "rounds.jsonl" if number <= manifest.job.training.rounds else "metrics.json"
    check_values(where, (f"epsilon in {file}", recorded, receipt.epsilon))
    plan = receipt.plan
    if receipt.taken > plan.steps:
        raise AuditError(f"{where}: {miscounted(receipt, before)}")
    if not plan.protects:
        return
    try:
        recomputed = recomputed_epsilon(plan, receipt.taken)
    except PlanError as error:
        raise AuditError(f"{where}: no second accountant can check it: {error}") from error
    if receipt.epsilon is None or not agrees(receipt.epsilon, recomputed):
        raise AuditError(
            f"{where}: it claims epsilon={receipt.epsilon}, a second accountant finds {recomputed:.4g}"
        )
    if receipt.epsilon > receipt.budget:
        raise AuditError(
            f"{where}: epsilon={receipt.epsilon:g} is over the run's budget of {receipt.budget:g}"
        )


def _line(receipt: Receipt, rounds: int, charged: int | None) -> AuditedSite:
    private = receipt.epsilon is not None
    return AuditedSite(
        site=receipt.site,
        rounds=rounds,
        taken=receipt.taken,
        planned=receipt.plan.steps,
        epsilon=receipt.epsilon,
        recomputed=recomputed_epsilon(receipt.plan, receipt.taken) if private else None,
        charged=charged,
    )


def _charged(ledger: LedgerAudit | None, manifest: Manifest) -> int | None:
    """How many rounds of the run a ledger holds charges for; None without a ledger."""
    if ledger is None:
        return None
    return sum(_charges_round(entry.event, manifest) for entry in ledger.entries)


def _charges_round(event: Event, manifest: Manifest) -> bool:
    """Whether a ledger's entry is of a round of the run, and not of what comes after the last."""
    if not isinstance(event, Released | Unprotected) or event.run != manifest.run:
        return False
    counts = isinstance(event, Released) and event.purpose != "training"
    return event.round <= manifest.job.training.rounds and not counts
