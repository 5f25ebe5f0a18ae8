"""Many sites' ledgers in one database, for a simulation whose sites are made when they are asked for.

::

    book.db     entries, data sets' digests and signed heads, each by its site

Each site's chain, totals and refusals are those of a ledger of its own, and so are its entries' bytes.
What they can share is the commit: in a book that is ``batched``, entries wait in memory until ``commit``
writes those of all sites in one transaction. Whoever hands on what they were reserved for commits first.
Nothing is flushed: a book outlasts a kill, and not a power cut, as the simulation does that it is for.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.durable import make_private_folder
from privacy.errors import LedgerError
from privacy.ledger.ledger_file import APPLICATION, Head, Row

BOOK = "book.db"
FORMAT = 2  # a ledger of one site has format 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
CREATE TABLE entries (
    site TEXT, number INTEGER, body BLOB NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (site, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
    site TEXT, dataset INTEGER, digests BLOB NOT NULL, PRIMARY KEY (site, dataset)
) STRICT, WITHOUT ROWID;
CREATE TABLE heads (
    site TEXT PRIMARY KEY, entries INTEGER NOT NULL, hash TEXT NOT NULL, signature BLOB NOT NULL
) STRICT, WITHOUT ROWID;
COMMIT;
"""


def find_book(path: Path) -> Path | None:
    """The book at a path, or in the folder that it is; None if there is none."""
    if path.is_dir():
        return path / BOOK if (path / BOOK).exists() else None
    return path if path.name == BOOK else None


class LedgerBook:
    """The database, open, and what waits to be written. Raises LedgerError for what SQLite reports.

    Processes may share one if each answers for other sites: an entry that two of them write is refused.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.batched = False  # whether whoever hands on what was reserved commits, for all sites at once
        if not create and not path.exists():
            raise LedgerError(f"no ledgers at {path}")
        make_private_folder(path.parent, flush=False)
        self._path = path
        with self._reported():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60.0)
            self._db.execute("PRAGMA synchronous = OFF")
            if create and not self._pragma("application_id"):
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(_SCHEMA)
            found = self._pragma("application_id"), self._pragma("user_version")
        if found != (APPLICATION, FORMAT):
            raise LedgerError(f"{path} is not a book of ledgers that this Confide reads")
        self._waiting: dict[str, _Waiting] = {}

    def pages(self, site: str) -> Pages:
        """One site's ledger in the book."""
        return Pages(self, site)

    def sites(self) -> tuple[str, ...]:
        """The sites of whose ledgers something is on disk."""
        found = self.select("SELECT site FROM heads UNION SELECT site FROM entries ORDER BY site")
        return tuple(str(site) for (site,) in found)

    def commit(self) -> None:
        """Write what waits, in one transaction. Raises LedgerError, and then none of it is on disk."""
        with self._reported():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for site, waiting in self._waiting.items():
                    rows = [(site, row.number, row.body, row.signature) for row in waiting.rows]
                    self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
                    members = [(site, number, joined) for number, joined in waiting.members.items()]
                    self._db.executemany("INSERT INTO members VALUES (?, ?, ?)", members)
                    if waiting.head is not None:
                        head = waiting.head
                        self._db.execute(
                            "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)",
                            (site, head.entries, head.hash, head.signature),
                        )
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        self._waiting = {}

    def close(self) -> None:
        """Close the file; what waits is lost."""
        self._db.close()

    def waiting(self, site: str) -> _Waiting:
        """What of a site's ledger is not on disk yet, to add to."""
        return self._waiting.setdefault(site, _Waiting())

    def found_waiting(self, site: str) -> _Waiting:
        """The same to read: a book of ten thousand sites remembers nothing of those that write nothing."""
        return self._waiting.get(site, _NOTHING)

    def select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a query finds on disk."""
        with self._reported():
            return self._db.execute(query, values).fetchall()

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            raise LedgerError(f"{self._path} cannot be used: {error}") from error


@dataclass
class _Waiting:
    """One site's entries, digests and head that wait for the next commit."""

    rows: list[Row] = field(default_factory=list)
    members: dict[int, bytes] = field(default_factory=dict)
    head: Head | None = None


_NOTHING = _Waiting()


class Pages(Mapping[int, bytes]):
    """One site's ledger in a book: what a chain asks of its file. As a mapping it is the digests."""

    def __init__(self, book: LedgerBook, site: str) -> None:
        self._book = book
        self._site = site

    @property
    def members(self) -> Mapping[int, bytes]:
        return self

    def close(self) -> None:
        """The book stays open for the other sites."""

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else writes this site's pages."""
        return nullcontext()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is appended within waits afterwards, or none of it does."""
        waiting = self._book.waiting(self._site)
        rows, members = len(waiting.rows), set(waiting.members)
        try:
            yield
        except BaseException:
            del waiting.rows[rows:]
            for number in waiting.members.keys() - members:
                del waiting.members[number]
            raise

    def append(self, row: Row) -> None:
        self._book.waiting(self._site).rows.append(row)

    def append_members(self, dataset: int, digests: bytes) -> None:
        self._book.waiting(self._site).members[dataset] = digests

    def write_head(self, head: Head) -> None:
        """Put the head beside what it is the head of; on disk now, where nobody commits for all."""
        self._book.waiting(self._site).head = head
        if not self._book.batched:
            self._book.commit()

    def rows(self, *, after: int = 0) -> Iterator[Row]:
        """The entries after a number, in order. Raises LedgerError naming the first that is missing."""
        query = "SELECT number, body, signature FROM entries WHERE site = ? AND number > ? ORDER BY number"
        found = [
            Row(number=n, body=b, signature=s) for n, b, s in self._book.select(query, self._site, after)
        ]
        found += [row for row in self._book.found_waiting(self._site).rows if row.number > after]
        for number, row in enumerate(found, start=after + 1):
            if row.number != number:
                raise LedgerError(f"it is missing; the next one is entry {row.number}", entry=number)
            if not (isinstance(row.body, bytes) and isinstance(row.signature, bytes)):
                raise LedgerError("it is not made of bytes", entry=number)
            yield row

    def read_head(self) -> Head | None:
        waiting = self._book.found_waiting(self._site)
        if waiting.head is not None:
            return waiting.head
        query = "SELECT entries, hash, signature FROM heads WHERE site = ?"
        found = self._book.select(query, self._site)
        if not found:
            return None
        entries, digest, signature = found[0]
        if not (isinstance(entries, int) and isinstance(digest, str) and isinstance(signature, bytes)):
            raise LedgerError(f"the head of {self._site} cannot be read")
        return Head(entries=entries, hash=digest, signature=signature)

    def __getitem__(self, dataset: int) -> bytes:
        waiting = self._book.found_waiting(self._site).members
        if dataset in waiting:
            return waiting[dataset]
        query = "SELECT digests FROM members WHERE site = ? AND dataset = ?"
        found = self._book.select(query, self._site, dataset)
        if not found or not isinstance(found[0][0], bytes):
            raise KeyError(dataset)
        return found[0][0]

    def __iter__(self) -> Iterator[int]:
        query = "SELECT dataset FROM members WHERE site = ?"
        known = {int(number) for (number,) in self._book.select(query, self._site)}
        return iter(sorted(known | self._book.found_waiting(self._site).members.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def copied_book(path: Path) -> Iterator[LedgerBook]:
    """Open a copy of a book, so that reading changes nothing."""
    if not path.exists():
        raise LedgerError(f"no ledgers at {path}")
    with tempfile.TemporaryDirectory(prefix="confide-ledger-") as folder:
        copy = Path(folder) / BOOK
        try:
            # Whole, whoever writes meanwhile: SQLite's own copy of what was committed.
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise LedgerError(f"{path} cannot be used: {error}") from error
        book = LedgerBook(copy)
        try:
            yield book
        finally:
            book.close()
