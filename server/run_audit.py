"""An auditor's reading of a run: its receipts against its manifest and against the sites' ledgers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.entries import Released, Unprotected
from privacy.errors import AuditError, ProtocolError, RunError
from privacy.ledger_audit import LedgerAudit, agrees, audit_ledger, recomputed_epsilon
from privacy.receipt import Receipt
from protocol.manifest import Manifest
from server.run_folder import RoundRecord, RunFolder


@dataclass(frozen=True, kw_only=True)
class AuditedSite:
    """One site of a run. ε is None without noise.

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
    """A run that passed: every receipt fits the manifest, and the ledgers that were given."""

    run: str
    manifest: str
    rounds: int
    epsilon: float
    delta: float
    sites: tuple[AuditedSite, ...]


def audit_run(folder: RunFolder, ledgers: Iterable[Path] = ()) -> RunAudit:
    """Check each finished round's receipts, and that the ledgers tell the same.

    Raises AuditError naming the first round and site that are wrong, and LedgerError for a ledger that is.
    """
    manifest, records, keys = folder.manifest, folder.records(), folder.public_keys
    told = _by_key(ledgers, keys)
    if len(keys) != manifest.cohort:
        raise AuditError(f"the manifest is for {manifest.cohort} sites, and {len(keys)} joined")
    latest: dict[str, Receipt] = {}
    for record in records:
        where = f"round {record.round}"
        try:
            signed = folder.receipts(record.round)
        except RunError as error:
            raise AuditError(str(error)) from error
        if signed.keys() != keys.keys():
            missing = ", ".join(sorted(keys.keys() ^ signed.keys()))
            raise AuditError(f"{where}: expected one receipt from each site; it is otherwise for {missing}")
        for site in sorted(signed):
            try:
                receipt = signed[site].read(keys[site])
            except ProtocolError as error:
                raise AuditError(f"{where}, {site}: {error}") from error
            _check_receipt(receipt, site, record, manifest, latest.get(site), f"{where}, {site}")
            if site in told:
                _check_ledger(receipt, told[site], f"{where}, {site}")
            latest[site] = receipt
    return RunAudit(
        run=manifest.run,
        manifest=manifest.digest.hex(),
        rounds=len(records),
        epsilon=manifest.job.privacy.epsilon,
        delta=manifest.job.privacy.delta,
        sites=tuple(_line(latest[site], len(records), told.get(site)) for site in sorted(latest)),
    )


def _by_key(ledgers: Iterable[Path], keys: Mapping[str, bytes]) -> dict[str, LedgerAudit]:
    """The ledgers by site. Raises AuditError for one that is of no site of the run."""
    names = {key.hex(): name for name, key in keys.items()}
    found = {}
    for path in ledgers:
        audit = audit_ledger(path)
        if audit.public_key not in names:
            raise AuditError(f"{path} is the ledger of a site {audit.site} whose key is none of this run's")
        found[names[audit.public_key]] = audit
    return found


def _check_receipt(
    receipt: Receipt,
    site: str,
    record: RoundRecord,
    manifest: Manifest,
    before: Receipt | None,
    where: str,
) -> None:
    job, plan = manifest.job, receipt.plan
    taken_before = before.taken if before else 0
    expected: list[tuple[str, object, object]] = [
        ("site", receipt.site, site),
        ("run", receipt.run, manifest.run),
        ("manifest", receipt.manifest, manifest.digest.hex()),
        ("round", receipt.round, record.round),
        ("mechanism", plan.mechanism.name, job.privacy.mechanism),
        ("clipping norm", plan.clipping_norm, job.privacy.clipping_norm),
        ("delta", plan.delta, job.privacy.delta),
        ("unit", plan.unit, job.privacy.unit),
        ("number of planned steps", plan.steps, job.training.total_steps),
        ("number of steps", receipt.steps, job.training.local_steps),
        ("budget", receipt.budget, job.privacy.epsilon),
        ("plan", plan, before.plan if before else plan),
        ("epsilon in rounds.jsonl", record.epsilon.get(site), receipt.epsilon),
    ]
    for what, got, wanted in expected:
        if got != wanted:
            raise AuditError(f"{where}: its {what} is wrong: expected {wanted}, got {got}")
    if not taken_before + receipt.steps <= receipt.taken <= plan.steps:
        raise AuditError(
            f"{where}: after {taken_before} of {plan.steps} steps, and {receipt.steps} more, it counts "
            f"{receipt.taken}"
        )
    if plan.mechanism.name == "none":
        if receipt.epsilon is not None:
            raise AuditError(f"{where}: there was no noise, and it claims epsilon={receipt.epsilon:g}")
        return
    recomputed = recomputed_epsilon(plan, receipt.taken)
    if receipt.epsilon is None or not agrees(receipt.epsilon, recomputed):
        raise AuditError(
            f"{where}: it claims epsilon={receipt.epsilon}, a second accountant finds {recomputed:.4g}"
        )
    if receipt.epsilon > receipt.budget:
        raise AuditError(
            f"{where}: epsilon={receipt.epsilon:g} is over the run's budget of {receipt.budget:g}"
        )


def _check_ledger(receipt: Receipt, ledger: LedgerAudit, where: str) -> None:
    """The ledger must hold the round's charge, no later than the entry that the receipt names."""
    numbers = {entry.hash: entry.number for entry in ledger.entries}
    if receipt.head not in numbers:
        raise AuditError(
            f"{where}: its ledger has no entry {receipt.head[:16]}…, which the receipt names as its last: "
            "entries are lost, or it is another ledger"
        )
    for entry in ledger.entries[: numbers[receipt.head]]:
        event = entry.event
        charge = isinstance(event, Released) and (event.purpose, event.taken) == ("training", receipt.taken)
        unprotected = isinstance(event, Unprotected) and event.manifest == receipt.manifest
        if (charge or unprotected) and (event.run, event.round) == (receipt.run, receipt.round):
            return
    raise AuditError(f"{where}: its ledger holds no charge for this round")


def _line(receipt: Receipt, rounds: int, ledger: LedgerAudit | None) -> AuditedSite:
    private = receipt.epsilon is not None
    return AuditedSite(
        site=receipt.site,
        rounds=rounds,
        taken=receipt.taken,
        planned=receipt.plan.steps,
        epsilon=receipt.epsilon,
        recomputed=recomputed_epsilon(receipt.plan, receipt.taken) if private else None,
        charged=_charged(ledger, receipt.run) if ledger else None,
    )


def _charged(ledger: LedgerAudit, run: str) -> int:
    events = [entry.event for entry in ledger.entries]
    return sum(
        isinstance(event, Released | Unprotected)
        and event.run == run
        and getattr(event, "purpose", "training") == "training"
        for event in events
    )
