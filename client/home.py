"""A site's home: the folder that holds what the site itself keeps, whatever process answers for it.

::

    site.toml               the custodian's policy
    identity.key            the site's Ed25519 key, readable by its owner alone
    ledger.db …             what was spent (see privacy.ledger_file)
    manifests/<digest>.json the manifests that the site joined, each with its .signature
    pending/<digest>.json   those that wait for the custodian
    secrets/<digest>.json   a run's keys and shares for its sums; never to be copied
    peers.toml              all sites' keys, its own among them (see client.peers)
    plans.json              plans that were made, so that none is paid for twice
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from client.peers import FILE as PEERS_FILE
from client.peers import read_peers
from client.policy import FILE, Policy, policy_toml, read_policy
from privacy.durable import write_durably
from privacy.entries import Approved, Begun, Created, Event, Released, Unprotected, read_entry
from privacy.errors import LedgerError, ProtocolError, UserError
from privacy.identity import Identity
from privacy.ledger import DATABASE, Ledger
from privacy.ledger_file import copied
from protocol.manifest import Manifest, read_manifest


class Home:
    """One site's folder. Raises OSError where the disk fails, and the errors of what it opens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def policy(self) -> Policy:
        return read_policy(self.path / FILE)

    @property
    def has_policy(self) -> bool:
        return (self.path / FILE).exists()

    def write_policy(self, policy: Policy) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_durably(self.path / FILE, policy_toml(policy).encode())

    @property
    def ledger_path(self) -> Path:
        return self.path / DATABASE

    def identity(self) -> Identity:
        """The site's key; made if neither it nor a ledger under it is there."""
        key = self.path / "identity.key"
        return Identity.load(key) if self.ledger_path.exists() else Identity.load_or_create(key)

    def open_ledger(self, site: str, identity: Identity) -> Ledger:
        """The site's ledger, begun with the policy's budget if the home is new.

        Raises LedgerError if the home has manifests and no ledger: what they spent is unknown.
        """
        if not self.ledger_path.exists() and any(self.manifests()):
            raise LedgerError(
                f"the ledger is lost: {self.path} has manifests and no {DATABASE}; bring it back"
            )
        budget = self.policy.budget
        return Ledger.open(
            self.path,
            site=site,
            identity=identity,
            epsilon=budget.epsilon,
            delta=budget.delta,
            order=budget.order,
        )

    def keep(self, manifest: Manifest, signature: bytes, *, pending: bool = False) -> None:
        """Remember a manifest, and the coordinator's signature under it, beyond this process."""
        path = self._manifest_path(manifest.digest, pending=pending)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path.with_suffix(".signature"), signature)
            write_durably(path, manifest.content)

    def peers(self) -> Mapping[str, bytes]:
        """All sites' identity keys, by name, as they were provisioned. Raises PolicyFileError."""
        return read_peers(self.path / PEERS_FILE)

    def secrets_path(self, manifest: Manifest) -> Path:
        """Where a run's secrets are, if the site keeps any."""
        return self.path / "secrets" / f"{manifest.digest.hex()}.json"

    def manifest(self, digest: bytes) -> tuple[Manifest, bytes] | None:
        """A manifest that the site joined and its signature, if it did."""
        path = self._manifest_path(digest)
        if not path.exists():
            return None
        manifest = read_manifest(path.read_bytes())
        if manifest.digest != digest:
            raise ProtocolError(f"{path} was changed: it is not the manifest that it is named after")
        return manifest, path.with_suffix(".signature").read_bytes()

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

    def approve(self, manifest: Manifest) -> None:
        """Write into the ledger that the custodian approves a manifest that waits."""
        ledger = self.open_ledger(self.site_name(), self.identity())
        ledger.record(Approved(run=manifest.run, manifest=manifest.digest.hex()))
        ledger.close()
        path = self._manifest_path(manifest.digest, pending=True)
        path.unlink()
        path.with_suffix(".signature").unlink()

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
        with copied(self.ledger_path) as file:
            return [read_entry(row.body, number=row.number).event for row in file.rows()]
