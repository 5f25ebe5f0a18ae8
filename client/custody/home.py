"""A site's home: the folder that holds what the site itself keeps, whatever process answers for it.

::

    site.toml               the custodian's policy
    identity.key            the site's Ed25519 key, readable by its owner alone
    ledger.db …             what was spent (see privacy.ledger.ledger_file)
    manifests/<digest>.json the manifests that the site joined, with .signature, and .start if it is needed
    pending/<digest>.json   those that wait for the custodian
    secrets/<digest>.json   a run's keys and shares for its sums; never to be copied
    local/<digest>.safetensors  what the site keeps of a run from round to round, and never sends
    local/<digest>.seed     what a run's correlated noise is made from; never to be replaced
    audits/<digest>.json    the evidence of audits that froze the ledger
    outbox/                 the last answers of each run (see client.agent.mailbox)
    peers.toml              all sites' keys, its own among them (see client.peers)
    plans.json              plans that were made, so that none is paid for twice

A coordinator can ask without end, and what it asks for is kept uncharged. So only so many manifests wait,
and only so many runs have joined and were charged nothing: the oldest make room, and may ask again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from client.custody.outbox import forget_run
from client.custody.peers import FILE as PEERS_FILE
from client.custody.peers import read_peers
from client.custody.policy import FILE, Policy, policy_toml, read_policy
from client.noise_stream import NoiseStream, keyed_seed, remove_seed
from client.site_memory import SiteMemory
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.training_plan import TrainingPlan
from privacy.durable import make_private_folder, write_durably
from privacy.errors import LedgerError, ProtocolError, UserError
from privacy.identity import Identity
from privacy.ledger.chain import EntryFile
from privacy.ledger.entries import (
    Approved,
    Begun,
    Created,
    Entry,
    Event,
    Frozen,
    Released,
    Unfrozen,
    Unprotected,
    read_entry,
)
from privacy.ledger.freezing import Freeze
from privacy.ledger.ledger import DATABASE, Ledger
from privacy.ledger.ledger_file import copied
from privacy.mechanisms.rng import Entropy
from protocol.job.manifest import Manifest, read_manifest
from protocol.plain_text import told

DIGEST_BYTES = 32
MEMORY = ".safetensors"
SEED, START = ".seed", ".start"
MOST_WAITING = 16
MOST_UNCHARGED = 32


class Home:
    """One site's folder. Raises OSError where the disk fails, and the errors of what it opens.

    Without ``flush`` what is written into it outlasts a kill, and not a power cut.
    """

    def __init__(self, path: Path, *, flush: bool = True) -> None:
        self.path = path
        self.flush = flush

    def read_policy(self) -> Policy:
        """The policy as it is now; whoever asks reads the file. Raises PolicyFileError."""
        return read_policy(self.path / FILE)

    @property
    def has_policy(self) -> bool:
        return (self.path / FILE).exists()

    def write_policy(self, policy: Policy) -> None:
        make_private_folder(self.path, flush=self.flush)
        write_durably(self.path / FILE, policy_toml(policy).encode(), flush=self.flush)

    @property
    def ledger_path(self) -> Path:
        return self.path / DATABASE

    @property
    def _ledger_place(self) -> Path | EntryFile:
        """Where the ledger is, as ``Ledger.open`` takes it."""
        return self.path

    def identity(self) -> Identity:
        """The site's key; made if neither it nor a ledger under it is there."""
        key = self.path / "identity.key"
        if self.ledger_path.exists():
            return Identity.load(key)
        return Identity.load_or_create(key, flush=self.flush)

    def open_ledger(
        self,
        site: str,
        identity: Identity,
        *,
        policy: Policy | None = None,
        seen: float | None = None,
        accept_clock: bool = False,
    ) -> Ledger:
        """The site's ledger, begun with the policy's budget if the home is new.

        ``policy`` is the home's, if it was read already; ``seen`` and ``accept_clock`` are as
        ``Ledger.open`` takes them. Raises LedgerError if the home has manifests and no ledger: what they
        spent is unknown.
        """
        if not self.ledger_path.exists() and any(self.manifests()):
            raise LedgerError(
                f"the ledger is lost: {self.path} has manifests and no {DATABASE}; bring it back"
            )
        budget = (policy or self.read_policy()).budget
        return Ledger.open(
            self._ledger_place,
            site=site,
            identity=identity,
            epsilon=budget.epsilon,
            delta=budget.delta,
            order=budget.order,
            seen=seen,
            accept_clock=accept_clock,
            flush=self.flush,
        )

    def keep(self, manifest: Manifest, signature: bytes, *, charged: Mapping[str, str]) -> None:
        """Remember a manifest that the site joined, and its signature, beyond this process.

        ``charged`` has the run of each manifest that anything was reserved for, by its digest as hex: those
        stay, whatever else has to make room.
        """
        path = self._manifest_path(manifest.digest)
        if path.exists():
            return
        _write_manifest(path, manifest, signature, flush=self.flush)
        for old in _oldest(path, beyond=MOST_UNCHARGED, spared=charged):
            run = read_manifest(old.read_bytes()).run
            _remove_manifest(old)
            (self.path / "secrets" / old.name).unlink(missing_ok=True)
            (self.path / "local" / old.with_suffix(MEMORY).name).unlink(missing_ok=True)
            remove_seed(self.path / "local" / old.with_suffix(SEED).name)
            if run not in charged.values():
                # What it said to a Join must not stand for a run that it does not know any more.
                forget_run(self.path / "outbox", run)

    def keep_waiting(self, manifest: Manifest, signature: bytes) -> None:
        """Remember a manifest, and its signature, until the custodian says what of it."""
        path = self._manifest_path(manifest.digest, pending=True)
        if not path.exists():
            _write_manifest(path, manifest, signature, flush=self.flush)
            for old in _oldest(path, beyond=MOST_WAITING):
                _remove_manifest(old)

    def peers(self) -> Mapping[str, bytes]:
        """All sites' identity keys, by name, as they were provisioned. Raises PolicyFileError."""
        return read_peers(self.path / PEERS_FILE)

    def secrets_path(self, manifest: Manifest) -> Path:
        """Where a run's secrets are, if the site keeps any."""
        return self.path / "secrets" / f"{manifest.digest.hex()}.json"

    def memory(self, manifest: Manifest) -> SiteMemory:
        """What the site keeps of a run from round to round, if it keeps anything."""
        path = (self.path / "local" / manifest.digest.hex()).with_suffix(MEMORY)
        return SiteMemory(path, flush=self.flush)

    def noise_stream(
        self, manifest: Manifest, plan: TrainingPlan, digests: Sequence[bytes], keyed: Entropy | None
    ) -> NoiseStream | None:
        """Where the noise of a run's steps comes from, None where it is not correlated."""
        if not isinstance(plan, BandedPlan):
            return None
        seed = None if keyed is None else keyed_seed(keyed)
        path = self.seed_path(manifest)
        return NoiseStream(path, plan=plan, digests=digests, keyed=seed, flush=self.flush)

    def seed_path(self, manifest: Manifest) -> Path:
        """Where the seed of a run's correlated noise is."""
        return (self.path / "local" / manifest.digest.hex()).with_suffix(SEED)

    def manifest(self, digest: bytes) -> tuple[Manifest, bytes] | None:
        """A manifest that the site joined and its signature, if it did."""
        path = self._manifest_path(digest)
        if len(digest) != DIGEST_BYTES or not path.exists():
            return None
        manifest = read_manifest(path.read_bytes())
        if manifest.digest != digest:
            raise ProtocolError(f"{path} was changed: it is not the manifest that it is named after")
        return manifest, path.with_suffix(".signature").read_bytes()

    def start_path(self, manifest: Manifest) -> Path:
        """Where the adapter is that a run began with, if the site needs it."""
        return self._manifest_path(manifest.digest).with_suffix(START)

    def _manifest_path(self, digest: bytes, *, pending: bool = False) -> Path:
        return self.path / ("pending" if pending else "manifests") / f"{digest.hex()}.json"

    def manifests(self, *, pending: bool = False) -> Iterator[Manifest]:
        folder = self.path / ("pending" if pending else "manifests")
        for path in sorted(folder.glob("*.json")):
            yield read_manifest(path.read_bytes())

    def waiting(self, run: str) -> Manifest:
        """The one manifest of a run that waits for the custodian. Raises UserError for none or several."""
        waiting = [manifest for manifest in self.manifests(pending=True) if manifest.run == run]
        if len(waiting) > 1:
            # Whoever reaches the site may send one: the custodian says which is meant.
            digests = ", ".join(manifest.digest.hex() for manifest in waiting)
            raise UserError(
                f"{len(waiting)} manifests of run {run} wait: {digests}; delete those that you do not mean "
                f"from {self.path / 'pending'}"
            )
        if not waiting:
            names = ", ".join(sorted({m.run for m in self.manifests(pending=True)})) or "no run"
            raise UserError(
                f"expected one manifest of run {run} that waits for approval, found none; "
                f"{names} waits at {self.path}"
            )
        return waiting[0]

    def joined(self, run: str) -> Manifest:
        """The one manifest of a run that the site joined. Raises UserError for none or several."""
        found = [manifest for manifest in self.manifests() if manifest.run == run]
        if len(found) != 1:
            names = ", ".join(sorted({m.run for m in self.manifests()})) or "no run"
            raise UserError(
                f"expected one manifest of run {run} that this site joined, found {len(found)}; it joined "
                f"{names}, by {self.path / 'manifests'}"
            )
        return found[0]

    def approve(self, manifest: Manifest) -> None:
        """Write into the ledger that the custodian approves a manifest that waits."""
        self._record(Approved(run=manifest.run, manifest=manifest.digest.hex()))
        _remove_manifest(self._manifest_path(manifest.digest, pending=True))

    def freeze(self, *, job: str, reason: str, evidence: bytes) -> None:
        """Keep an audit's evidence, and let the ledger spend nothing until a person clears that."""
        digest = hashlib.sha256(evidence).hexdigest()
        path = self.path / "audits" / f"{digest}.json"
        make_private_folder(path.parent, flush=self.flush)
        write_durably(path, evidence, flush=self.flush)
        self._record(Frozen(job=job, audit=digest, reason=told(reason)))

    def frozen(self) -> Entry | None:
        """The entry by which an audit has frozen the ledger, if none has cleared it."""
        freeze, entries = Freeze(), self._entries()
        for entry in entries:
            if isinstance(entry.event, Frozen | Unfrozen):
                freeze.take(entry.number, entry.event)
        return None if freeze.by is None else entries[freeze.entry - 1]

    def unfreeze(self, entry: int, reason: str) -> None:
        """Write into the ledger that the custodian clears the freeze of an entry, and why."""
        self._record(Unfrozen(entry=entry, reason=told(reason)))

    def _record(self, event: Approved | Frozen | Unfrozen) -> None:
        ledger = self.open_ledger(self.site_name(), self.identity())
        try:
            ledger.record(event)
        finally:
            ledger.close()

    def last_time(self) -> int:
        """When the ledger's last entry was written, by its clock of then, in seconds since 1970."""
        with copied(self.ledger_path) as file:
            row = list(file.rows())[-1]
            return read_entry(row.body, number=row.number).time

    def accept_clock(self) -> None:
        """Write into the ledger that the custodian accepts the clock as it is, if that is needed."""
        self.open_ledger(self.site_name(), self.identity(), accept_clock=True).close()

    def close_run(self, run: str) -> float:
        """End a run here for good, and return the ε that its data have lost then; infinite without a bound.

        Raises UserError if it began no plan.
        """
        begun = {event.run for event in self._events() if isinstance(event, Begun)}
        if run not in begun:
            names = ", ".join(sorted(begun)) or "no run"
            raise UserError(f"run {run} began no plan that could end; {names} did, by {self.ledger_path}")
        ledger = self.open_ledger(self.site_name(), self.identity())
        dataset = ledger.close_run(run)
        epsilon = ledger.epsilon(dataset)
        ledger.close()
        for manifest in self.manifests():
            if manifest.run == run:
                remove_seed(self.seed_path(manifest))
        return epsilon

    def site_name(self) -> str:
        """The name that the ledger was begun under."""
        first = next(iter(self._events()), None)
        if not isinstance(first, Created):
            raise LedgerError("a ledger begins with its creation", entry=1)
        return first.site

    def has_released(self, run: str) -> bool:
        """Whether anything was reserved here for a run, and so may have left."""
        events = self._events() if self.ledger_path.exists() else []
        return any(
            isinstance(event, Begun | Released | Unprotected) and event.run == run for event in events
        )

    def _events(self) -> list[Event]:
        return [entry.event for entry in self._entries()]

    def _entries(self) -> list[Entry]:
        with copied(self.ledger_path) as file:
            return [read_entry(row.body, number=row.number) for row in file.rows()]


def _write_manifest(path: Path, manifest: Manifest, signature: bytes, *, flush: bool) -> None:
    make_private_folder(path.parent, flush=flush)
    write_durably(path.with_suffix(".signature"), signature, flush=flush)
    write_durably(path, manifest.content, flush=flush)


def _remove_manifest(path: Path) -> None:
    path.unlink(missing_ok=True)
    for beside in (".signature", START):
        path.with_suffix(beside).unlink(missing_ok=True)


def _oldest(new: Path, *, beyond: int, spared: Collection[str] = ()) -> list[Path]:
    """The manifests beside a new one that have lain longest, beyond so many with it, but for those spared.

    What was written under a clock that was ahead, and was set right since, counts as old.
    """
    now = time.time_ns()

    def age(path: Path) -> tuple[bool, int, str]:
        written = path.stat().st_mtime_ns
        return written <= now, written, path.name

    found = [path for path in new.parent.glob("*.json") if path != new and path.stem not in spared]
    return sorted(found, key=age)[: max(0, len(found) + 1 - beyond)]
