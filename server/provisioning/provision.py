"""Provisioning a federation: its authority, the coordinator's folder and a kit for each site.

Run it again after each change of federation.toml: what exists stays as it is to the last byte but
peers.toml, which names the others to each site, and what a kill left out is made up for. federation.json
is the record of who is in; a kit that was handed over is remembered there by its public keys, and is never
made again unasked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from privacy.durable import PUBLIC_FILE, make_private_folder, sync_folder, write_durably
from privacy.errors import UserError
from protocol.messages.site_keys import PublicKeys
from server.provisioning.authority import Authority
from server.provisioning.coordinator_folder import CoordinatorFolder, Federation, FederationSite
from server.provisioning.coordinator_keys import certificate_fits, certify_server, make_coordinator
from server.provisioning.federation_file import FederationFile
from server.provisioning.kits import Kits
from server.provisioning.peers_file import peers_toml, write_peers

State = Literal["made", "here", "handed over", "revoked"]


@dataclass(frozen=True, kw_only=True)
class SiteOutcome:
    """How a site stands after provisioning. ``kit`` is where its kit is, or was."""

    name: str
    state: State
    has_own_keys: bool
    kit: Path


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What there is now, and what this time changed. ``server_until`` is None without its certificate.

    ``changed`` tells whether federation.json says something new, ``peers_changed`` whether peers.toml does.
    """

    folder: Path
    coordinator: CoordinatorFolder
    sites: tuple[SiteOutcome, ...]
    authority_until: datetime
    server_until: datetime | None
    is_new: bool
    changed: bool
    peers_changed: bool
    renewed: bool
    moved: bool


def provision(
    file: FederationFile,
    out: Path,
    *,
    now: datetime,
    renew: bool = False,
    reissue: Collection[str] = (),
    revoke: Collection[str] = (),
) -> Provisioned:
    """Bring ``out`` to what ``file`` says. Raises UserError before it changes anything.

    ``renew`` makes a new certificate for the server, ``reissue`` new kits with new keys for these sites;
    ``revoke`` shuts sites out.
    """
    make_private_folder(out)
    with _locked(out):
        return _Provisioning(file, out, now).run(renew, set(reissue), set(revoke))


class _Provisioning:
    def __init__(self, file: FederationFile, out: Path, now: datetime) -> None:
        self._file, self._out, self._now = file, out, now
        self._entries = {entry.name: entry for entry in file.site}
        self._coordinator = CoordinatorFolder(out / "coordinator")
        self._kits = Kits(out / "kits")

    def run(self, renew: bool, reissue: set[str], revoke: set[str]) -> Provisioned:
        for folder in (self._out / "ca", self._coordinator.path):
            for stray in folder.glob(".*.partial"):  # of a process that was killed: maybe a key
                stray.unlink()
        is_new = not self._coordinator.is_provisioned
        if is_new:
            if revoke or reissue:
                raise UserError(
                    f"{self._out} has no sites yet: provision them before --revoke or --reissue"
                )
            self._begin()
        before = self._federation
        moved = before.address != self._file.address
        self._check_federation(moved and not renew)
        make_private_folder(self._kits.path)
        self._kits.clear(set(self._entries))
        finished = list(self._kits.ready())
        self._admit(finished)
        reissue -= set(finished)
        self._check_sites(reissue, revoke)

        self._revoke(revoke)
        fits = certificate_fits(self._coordinator.server_certificate, self._coordinator.server_key)
        renewed = not is_new and (renew or not fits)  # it does not fit if a kill stopped a renewal
        if renewed:
            self._certify()
        fresh = [name for name in self._entries if name not in self._federation.sites or name in reissue]
        for site in fresh:
            authority = self._coordinator.authority_certificate.read_bytes()
            self._kits.make(self._entries[site], self._federation, authority, now=self._now)
        self._admit(fresh)
        peers_changed = self._name_peers()
        for site in finished + fresh:
            self._kits.show(site)
        server = self._coordinator.server_certificate
        return Provisioned(
            folder=self._out,
            coordinator=self._coordinator,
            sites=tuple(self._outcome(site, finished + fresh) for site in self._federation.sites),
            authority_until=self._coordinator.authority_until(),
            server_until=self._coordinator.server_until() if server.exists() else None,
            is_new=is_new,
            changed=self._federation != before,
            peers_changed=peers_changed,
            renewed=renewed,
            moved=moved,
        )

    @property
    def _federation(self) -> Federation:
        return self._coordinator.federation

    def _begin(self) -> None:
        """The authority and the coordinator's folder. federation.json is last: then they are whole."""
        if self._kits.path.exists():
            raise UserError(
                f"{self._coordinator.federation_path} is missing, and this federation was provisioned "
                "already: bring the coordinator's folder back, or begin another with --out"
            )
        authority = Authority.load_or_create(self._out / "ca", name=self._file.name, now=self._now)
        key = make_coordinator(self._coordinator, authority, self._file, now=self._now)
        federation = Federation(
            name=self._file.name, address=self._file.address, coordinator=key.hex(), sites={}
        )
        self._coordinator.write_federation(federation)

    def _check_federation(self, moved: bool) -> None:
        known = self._federation
        if known.name != self._file.name:
            raise UserError(
                f"{self._out} is the federation {known.name}, not {self._file.name}: name another folder "
                "with --out"
            )
        if moved:
            raise UserError(
                f"the address was {known.address} and is {self._file.address} now: --renew makes a "
                "certificate for it, and each site changes site.coordinator in its site.toml"
            )

    def _check_sites(self, reissue: set[str], revoke: set[str]) -> None:
        known = self._federation.sites
        for site in sorted(revoke - set(known)):
            raise UserError(f"--revoke {site}: expected one of {_listed(known)}")
        for site in sorted(reissue - set(self._entries)):
            raise UserError(f"--reissue {site}: expected one of {_listed(self._entries)}")
        for site in sorted(reissue & revoke):
            raise UserError(f"expected either --reissue {site} or --revoke {site}, got both")
        for site, entry in self._entries.items():
            if site in reissue or site not in known:
                if self._kits.kit(site).exists():
                    raise UserError(
                        f"{self._kits.kit(site)} is in the way of a new kit: move it away, and go on"
                    )
                if site in known and known[site].revoked and known[site].node == entry.node:
                    raise UserError(
                        f"the node key of {site} was revoked: the site deletes relay/node.key, and "
                        "`confide site keys` makes another"
                    )
            elif site not in revoke and not known[site].revoked:
                keys = _keys(known[site])
                if entry.has_own_keys and self._kits.public_keys(entry) != keys:
                    raise UserError(
                        f"{site} has other keys than those in federation.json: --reissue {site} takes the "
                        "new ones, and the old ones end"
                    )
                self._kits.check(site, keys)
        self._check_others(reissue | (set(self._entries) - set(known)))
        for site, former in known.items():
            if site not in self._entries and not former.revoked and site not in revoke:
                raise UserError(
                    f"{site} is in the federation and no more in the file: --revoke {site} shuts it out"
                )

    def _check_others(self, fresh: set[str]) -> None:
        """A key that another site has, or had before it was revoked, is no new site's."""
        for site in sorted(fresh):
            entry = self._entries[site]
            for name, other in self._federation.sites.items():
                if name.lower() == site.lower() and name != site:
                    raise UserError(f"site {site}: on some disks it would share a folder with {name}")
                if name != site and (other.identity == entry.identity or other.node == entry.node):
                    raise UserError(
                        f"site {site}: its identity or node is that of {name}; each has its own"
                    )

    def _revoke(self, sites: set[str]) -> None:
        federation = self._federation
        for site in sites:
            former = federation.sites[site].model_copy(update={"revoked": True})
            federation = _with(federation, site, former)
        self._coordinator.write_federation(federation)
        self._write_nodes()

    def _certify(self) -> None:
        authority = Authority.load(self._out / "ca")
        certify_server(self._coordinator, authority, self._file, now=self._now)
        federation = self._federation.model_copy(update={"address": self._file.address})
        self._coordinator.write_federation(federation)

    def _admit(self, sites: Collection[str]) -> None:
        """Make the keys of ready kits those sites', of all at once: then each kit can name them all."""
        federation = self._federation
        for site in sites:
            keys = self._kits.public_keys(self._entries[site])
            admitted = FederationSite(node=keys.node, identity=keys.identity.hex())
            federation = _with(federation, site, admitted)
        self._coordinator.write_federation(federation)
        self._write_nodes()

    def _name_peers(self) -> bool:
        """Bring peers.toml up to date, here and in the kits; whether it said anything else here."""
        text = peers_toml(self._federation)
        for site in self._federation.active_sites:
            self._kits.name_peers(site, text)
        return write_peers(self._out, text)

    def _write_nodes(self) -> None:
        """``nodes/`` is what federation.json says: a file for each site that is not revoked."""
        folder = self._coordinator.nodes
        make_private_folder(folder)
        wanted = {f"{name}.pub": f"{s.node} {name}\n" for name, s in self._federation.active_sites.items()}
        for name, text in wanted.items():
            path = folder / name
            if not path.exists() or path.read_text() != text:
                write_durably(path, text.encode(), mode=PUBLIC_FILE)
        gone = [path for path in folder.iterdir() if path.name not in wanted]
        for path in gone:
            path.unlink()
        if gone:
            sync_folder(folder)

    def _outcome(self, site: str, fresh: list[str]) -> SiteOutcome:
        kit, entry = self._kits.kit(site), self._entries.get(site)
        state: State
        if self._federation.sites[site].revoked:
            state = "revoked"
        elif site in fresh:
            state = "made"
        else:
            state = "here" if kit.exists() else "handed over"
        return SiteOutcome(
            name=site, state=state, has_own_keys=entry is not None and entry.has_own_keys, kit=kit
        )


def _keys(site: FederationSite) -> PublicKeys:
    return PublicKeys(identity=site.identity_key, node=site.node)


def _with(federation: Federation, site: str, entry: FederationSite) -> Federation:
    return federation.model_copy(update={"sites": federation.sites | {site: entry}})


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "no site"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises UserError if another process is provisioning into the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"another `confide provision` is at work in {folder}: wait for it") from error
    finally:
        os.close(descriptor)
