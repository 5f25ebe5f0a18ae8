"""A site's records of processing: who ran what on which data, when, by whose leave and at what cost.

For records as Article 30 of the GDPR asks for. All of it is from the ledger, whose chain and totals are
verified first, and from the manifests in the home, which are known by their digests.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from client.custody.home import Home
from privacy.errors import PolicyFileError, ProtocolError, SignatureError
from privacy.identity import verify
from privacy.ledger.budget import DELTAS, NATS
from privacy.ledger.entries import (
    Approved,
    Begun,
    ClockSet,
    Closed,
    Created,
    Entry,
    Frozen,
    Rebudgeted,
    Refused,
    Registered,
    Released,
    Summed,
    Unfrozen,
    Unprotected,
)
from privacy.ledger.ledger_audit import LedgerAudit, audit_ledger
from privacy.ledger.ledger_book import BOOK, copied_book
from privacy.ledger.ledger_file import copied
from privacy.ledger.state import History
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.moments import utc_second


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One entry of the ledger as a record; None where a field says nothing of it.

    ``coordinator`` is the public key that signed the run's manifest, as hex. ``epsilon`` at ``delta`` is
    what the entry commits of a data set's budget, for the example that a plan charges, and
    ``epsilon_lost`` what the example that has lost most has lost with it. ``approval`` is by whose leave.
    """

    entry: int
    time: str
    event: str
    run: str | None = None
    coordinator: str | None = None
    manifest: str | None = None
    task: str | None = None
    model: str | None = None
    purpose: str | None = None
    approval: str | None = None
    data: str | None = None
    data_set: int | None = None
    fingerprint: str | None = None
    examples: int | None = None
    mechanism: str | None = None
    unit: str | None = None
    sums: str | None = None
    round: int | None = None
    steps: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    epsilon_lost: float | None = None
    remark: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessingLog:
    """All records of one site, and the ledger that they are from, which passed its audit."""

    site: str
    public_key: str
    head: str
    complete: bool
    lines: tuple[LogLine, ...]


def read_processing_log(path: Path, *, key: str | None = None, site: str | None = None) -> ProcessingLog:
    """The records of the ledger at ``path``, a site's ``ledger.db`` or, with ``site``, one of a book.

    Nothing is returned of a ledger that does not hold. Raises LedgerError, naming the first wrong entry.
    """
    audit = audit_ledger(path, key=key, site=site)
    home = Home(path.parent)
    runs = _Runs(home, audit)
    with ExitStack() as opened:
        if path.name == BOOK:
            members = opened.enter_context(copied_book(path)).pages(audit.site).members
        else:
            members = opened.enter_context(copied(path)).members
        history = History(members)
        lines = [runs.line(entry, history) for entry in audit.entries]
    return ProcessingLog(
        site=audit.site,
        public_key=audit.public_key,
        head=audit.head,
        complete=audit.complete,
        lines=tuple(lines),
    )


class _Runs:
    """What is known of the runs that a ledger tells of."""

    def __init__(self, home: Home, audit: LedgerAudit) -> None:
        self._home = home
        self._coordinator = _pinned(home)
        self._manifests: dict[str, tuple[Manifest, str | None] | None] = {}
        self._approved = {
            entry.event.manifest: entry for entry in audit.entries if isinstance(entry.event, Approved)
        }
        self._begun = {
            (entry.event.run, entry.event.purpose): entry.event
            for entry in audit.entries
            if isinstance(entry.event, Begun)
        }

    def line(self, entry: Entry, history: History) -> LogLine:
        """An entry's record; ``history`` takes it, and is what the entries up to it add up to."""
        history.add(entry)
        event = entry.event
        line = LogLine(entry=entry.number, time=utc_second(entry.time), event=type(event).__name__.lower())
        if isinstance(event, Begun):
            line = replace(
                self._of_run(line, event.run, event.manifest, entry),
                purpose=event.purpose,
                mechanism=event.plan.mechanism.name,
                unit=event.plan.unit,
                steps=event.plan.steps,
                epsilon=event.cost.epsilon / NATS,
                delta=event.cost.delta / DELTAS,
                remark="its noise repeats, and protects nobody" if event.keyed else None,
            )
        elif isinstance(event, Released | Closed):
            begun = self._begun[event.run, event.purpose]
            line = replace(
                self._of_run(line, event.run, begun.manifest, entry),
                purpose=event.purpose,
                mechanism=begun.plan.mechanism.name,
                unit=begun.plan.unit,
            )
            if isinstance(event, Released):
                line = replace(line, round=event.round, steps=event.steps)
            else:
                line = replace(line, steps=event.taken, remark="the plan ends after so many steps")
        elif isinstance(event, Unprotected):
            line = replace(
                self._of_run(line, event.run, event.manifest, entry),
                purpose="training",
                round=event.round,
                remark="released without noise: no bound holds for the data",
            )
        elif isinstance(event, Summed):
            begun = self._begun[event.run, "training"]
            line = replace(
                self._of_run(line, event.run, begun.manifest, entry),
                purpose="training",
                round=event.round,
                remark=f"{event.survivors} sites are in the sum",
            )
        elif isinstance(event, Approved | Refused):
            line = self._of_run(line, event.run, event.manifest, entry)
            if isinstance(event, Refused):
                line = replace(line, approval=None, remark=f"{event.rule}: {event.reason}")
        else:
            line = replace(line, remark=_remark(entry))
        return _of_data(line, entry, history)

    def _of_run(self, line: LogLine, run: str, digest: str, entry: Entry) -> LogLine:
        """The same with what the run's manifest says, if the home has it, and by whose leave it ran."""
        line = replace(line, run=run, manifest=digest, approval=self._approval(digest, entry))
        kept = self._manifest(digest)
        if kept is None:
            return line
        manifest, coordinator = kept
        job = manifest.job
        return replace(
            line,
            coordinator=coordinator,
            task=job.task,
            model=job.model.source,
            data=job.data.joint_alias,
            sums=job.aggregation.kind,
        )

    def _approval(self, digest: str, entry: Entry) -> str:
        """A run that nobody approved before ran because the policy asked for no approval then."""
        approved = self._approved.get(digest)
        if approved is None or approved.number > entry.number:
            return "by the policy"
        return f"by the custodian, entry {approved.number} of {utc_second(approved.time)}"

    def _manifest(self, digest: str) -> tuple[Manifest, str | None] | None:
        """A run's manifest and who signed it, if the home has it whole."""
        if digest not in self._manifests:
            try:
                kept = self._home.manifest(bytes.fromhex(digest))
            except (ProtocolError, ValueError, OSError):
                kept = None
            signer = None if kept is None else self._signer(*kept)
            self._manifests[digest] = None if kept is None else (kept[0], signer)
        return self._manifests[digest]

    def _signer(self, manifest: Manifest, signature: bytes) -> str | None:
        if self._coordinator is None:
            return None
        try:
            verify(bytes.fromhex(self._coordinator), MANIFEST_PURPOSE, manifest.content, signature)
        except SignatureError:
            return None
        return self._coordinator


def _pinned(home: Home) -> str | None:
    """The coordinator's key that the policy pins now, if it can be read."""
    try:
        return home.read_policy().rules.coordinator if home.has_policy else None
    except PolicyFileError:
        return None


def _of_data(line: LogLine, entry: Entry, history: History) -> LogLine:
    """The same with the data set that an entry is about, and what its examples have lost by then."""
    event = entry.event
    number = entry.number if isinstance(event, Registered) else getattr(event, "dataset", None)
    if number is None:
        return line
    dataset, lost = history.datasets[number], history.epsilon(number)
    return replace(
        line,
        data_set=number,
        fingerprint=dataset.fingerprint,
        examples=dataset.examples,
        epsilon_lost=lost if lost < float("inf") else None,
    )


def _remark(entry: Entry) -> str | None:
    """What else the custodian did, in words."""
    event = entry.event
    if isinstance(event, Created):
        return f"each data set may lose epsilon={event.budget.epsilon:g} at delta={event.budget.delta:g}"
    if isinstance(event, Rebudgeted):
        return f"the budget of each data set became epsilon={event.epsilon:g}"
    if isinstance(event, ClockSet):
        return f"the clock was accepted; it was {utc_second(event.before)} before"
    if isinstance(event, Frozen):
        return f"an audit of job {event.job} refuted what runs claim: {event.reason}"
    if isinstance(event, Unfrozen):
        return f"the freeze of entry {event.entry} was cleared: {event.reason}"
    return None
