"""A startup kit: the folder that becomes a site's home.

A kit is put together out of sight, as ``.NAME.partial``, and is ``.NAME.ready`` once it is whole. Only when
federation.json knows its keys, and it names all other sites, does it get the site's name, so that no kit is
ever handed over that the coordinator or the others would not accept. A kill between any two steps leaves
what the next run can tell apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from privacy.durable import PUBLIC_FILE, make_private_folder, sync_folder
from privacy.errors import UserError
from protocol.messages.keys import write_new
from protocol.messages.site_keys import PublicKeys, make_site_keys, read_site_keys
from server.provisioning.coordinator_folder import Federation
from server.provisioning.federation_file import SiteEntry
from server.provisioning.peers_file import write_peers
from server.provisioning.site_template import site_toml

_PARTIAL, _READY = ".partial", ".ready"
_README = """\
1. {copy}
2. Edit site.toml: where the data are, what they may lose, which rules a run must keep.
3. There: confide site start site.toml
"""
_COPY = "Copy this folder to the machine of site {name}. Whoever has a copy can answer as the site."
_COPY_WITHOUT_KEYS = (
    "Copy what is here into the home of site {name}, whose keys `confide site keys .` makes."
)


class Kits:
    """The folder with the kits that were not handed over yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def kit(self, site: str) -> Path:
        return self.path / site

    def _hidden(self, site: str, suffix: str) -> Path:
        return self.path / f".{site}{suffix}"

    def clear(self, sites: set[str]) -> None:
        """Delete what a kill left half made, and whole kits of sites that nobody asks for any more."""
        for path in sorted(self.path.glob(f".*{_PARTIAL}")):
            shutil.rmtree(path)
        for path in sorted(self.path.glob(f".*{_READY}")):
            if path.name.removeprefix(".").removesuffix(_READY) not in sites:
                shutil.rmtree(path)

    def ready(self) -> Iterator[str]:
        """The sites whose kit is whole and not known to federation.json yet, or just now."""
        for path in sorted(self.path.glob(f".*{_READY}")):
            yield path.name.removeprefix(".").removesuffix(_READY)

    def make(self, entry: SiteEntry, federation: Federation, authority: bytes, *, now: datetime) -> None:
        """Make a site's kit, whole but hidden. ``authority`` is ca.crt."""
        partial = self._hidden(entry.name, _PARTIAL)
        make_private_folder(partial)
        if not entry.has_own_keys:
            make_site_keys(partial, now=now)
        make_private_folder(partial / "relay")
        write_new(partial / "relay" / "ca.crt", authority, mode=PUBLIC_FILE)
        text = site_toml(
            entry,
            federation=federation.name,
            address=federation.address,
            coordinator=federation.coordinator,
        )
        write_new(partial / "site.toml", text.encode(), mode=PUBLIC_FILE)
        write_new(partial / "README", _readme(entry).encode(), mode=PUBLIC_FILE)
        partial.rename(self._hidden(entry.name, _READY))
        sync_folder(self.path)

    def public_keys(self, entry: SiteEntry) -> PublicKeys:
        """The keys that go with a hidden kit: those in it, or the site's own."""
        if entry.identity is not None and entry.node is not None:
            return PublicKeys(identity=bytes.fromhex(entry.identity), node=entry.node)
        return read_site_keys(self._hidden(entry.name, _READY))

    def name_peers(self, site: str, text: str) -> None:
        """Bring peers.toml in a site's kit up to date, hidden or not, if there is one."""
        for kit in (self._hidden(site, _READY), self.kit(site)):
            if kit.is_dir():
                write_peers(kit, text)

    def show(self, site: str) -> None:
        """Give a hidden kit the site's name."""
        kit = self.kit(site)
        if kit.exists():
            raise UserError(f"{kit} is in the way of a new kit of {site}: move it away, and go on")
        self._hidden(site, _READY).rename(kit)
        sync_folder(self.path)

    def check(self, site: str, known: PublicKeys) -> None:
        """Raises UserError if a kit that is here has other keys than federation.json knows."""
        kit = self.kit(site)
        if (kit / "identity.key").exists() and read_site_keys(kit) != known:
            raise UserError(
                f"{kit} has other keys than federation.json knows of {site}: it is out of date; delete it"
            )


def _readme(entry: SiteEntry) -> str:
    copy = _COPY_WITHOUT_KEYS if entry.has_own_keys else _COPY
    return _README.format(copy=copy.format(name=entry.name))
