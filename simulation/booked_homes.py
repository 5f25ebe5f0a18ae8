"""Homes of simulated sites that take no files of their own: one key, one policy and one book for all.

::

    sites/identity.key   a key that each site's own is derived from
    sites/book.db        all sites' ledgers (see privacy.ledger.ledger_book)
    sites/local/         what sites keep from round to round, and seeds of correlated noise
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from client.custody.home import MEMORY, SEED, START, Home
from client.custody.policy import Policy
from client.site_memory import SiteMemory
from privacy.identity import Identity
from privacy.ledger.chain import EntryFile
from privacy.ledger.entries import Begun, Released, Unprotected, read_entry
from privacy.ledger.ledger_book import BOOK, LedgerBook
from protocol.job.manifest import Manifest


class BookedHomes:
    """The homes of one simulation's sites, in one folder, under one ``policy``.

    Nobody but the simulation answers for these sites, so what only the next process would need, such as the
    manifests that they joined, is in memory alone.
    """

    def __init__(self, folder: Path, *, policy: Policy, names: tuple[str, ...]) -> None:
        self.policy = policy
        self.manifests: dict[bytes, tuple[Manifest, bytes]] = {}
        self.book = LedgerBook(folder / BOOK, create=True)
        self.folder = folder
        self._key = Identity.load_or_create(folder / "identity.key", flush=False)
        self.peers: Mapping[str, bytes] = _Peers(self, names)

    def identity(self, site: str) -> Identity:
        """A site's key: the same in each process that has the folder."""
        return Identity.from_secret(self._key.derive(f"site {site}"))

    def home(self, site: str) -> BookedHome:
        """A site's home."""
        return BookedHome(self, self.folder / site, site)


class BookedHome(Home):
    """One site's home among the others: it takes no folder."""

    def __init__(self, homes: BookedHomes, path: Path, site: str) -> None:
        super().__init__(path, flush=False)
        self._homes = homes
        self._site = site

    def read_policy(self) -> Policy:
        return self._homes.policy

    def identity(self) -> Identity:
        return self._identity

    @cached_property
    def _identity(self) -> Identity:
        return self._homes.identity(self._site)

    @property
    def _ledger_place(self) -> Path | EntryFile:
        return self._homes.book.pages(self._site)

    def keep(self, manifest: Manifest, signature: bytes, *, charged: Mapping[str, str]) -> None:  # noqa: ARG002
        """All sites join one run: it is remembered once."""
        self._homes.manifests[manifest.digest] = manifest, signature

    def memory(self, manifest: Manifest) -> SiteMemory:
        return memory_in(self._homes.folder, self._site, manifest)

    def seed_path(self, manifest: Manifest) -> Path:
        return self._homes.folder / "local" / f"{self._site}.{manifest.digest.hex()}{SEED}"

    def start_path(self, manifest: Manifest) -> Path:
        """All sites join one run: what it began with is kept once."""
        return self._homes.folder / f"{manifest.digest.hex()}{START}"

    def manifest(self, digest: bytes) -> tuple[Manifest, bytes] | None:
        return self._homes.manifests.get(digest)


def memory_in(homes: Path, site: str, manifest: Manifest) -> SiteMemory:
    """What a simulated site has kept of a run, in the folder of its homes."""
    if (homes / BOOK).exists():
        return SiteMemory(homes / "local" / f"{site}{MEMORY}", flush=False)
    return Home(homes / site).memory(manifest)


class _Peers(Mapping[str, bytes]):
    """All sites' public keys, each made when it is first asked for."""

    def __init__(self, homes: BookedHomes, names: tuple[str, ...]) -> None:
        self._homes = homes
        self._names = dict.fromkeys(names)
        self._known: dict[str, bytes] = {}

    def __getitem__(self, site: str) -> bytes:
        if site not in self._known:
            if site not in self._names:
                raise KeyError(site)
            self._known[site] = self._homes.identity(site).public
        return self._known[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def has_released(folder: Path, run: str) -> bool:
    """Whether anything was reserved for a run in the homes under ``folder``, and so may have left."""
    if not (folder / BOOK).exists():
        return any(Home(path).has_released(run) for path in folder.glob("*"))
    book = LedgerBook(folder / BOOK)
    try:
        events = (
            read_entry(row.body, number=row.number).event
            for site in book.sites()
            for row in book.pages(site).rows()
        )
        return any(
            isinstance(event, Begun | Released | Unprotected) and event.run == run for event in events
        )
    finally:
        book.close()
