"""A ledger on disk: an SQLite database, a lock beside it, and a note of how far it goes.

::

    ledger.db     entries and data sets' digests; WAL, every commit flushed (synchronous=FULL) if asked
    ledger.lock   held by the one process that writes
    ledger.head   number and hash of the last entry, signed

The head is written after each commit. A database that falls short of it has lost entries: an older copy
was put back, or its write-ahead log went missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from privacy.durable import make_private_folder, open_private, overwrite, write_durably, write_whole
from privacy.errors import LedgerError

APPLICATION = 0x436F6E66  # "Conf": tells a ledger from other SQLite files
FORMAT = 1
HEAD_PURPOSE = "ledger head"
# What SQLite says of a broken database may quote it, and that need not be text.
_FAILURES = (sqlite3.Error, UnicodeError)

_SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
CREATE TABLE entries (number INTEGER PRIMARY KEY, body BLOB NOT NULL, signature BLOB NOT NULL) STRICT;
CREATE TABLE members (dataset INTEGER PRIMARY KEY, digests BLOB NOT NULL) STRICT;
COMMIT;
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entry as it lies there, unread and unverified."""

    number: int
    body: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Head:
    """How far the ledger went when this was written."""

    entries: int
    hash: str
    signature: bytes

    @property
    def content(self) -> bytes:
        return head_content(self.entries, self.hash)

    @cached_property
    def text(self) -> bytes:
        """What ledger.head holds."""
        table = {"entries": self.entries, "hash": self.hash, "signature": self.signature.hex()}
        return json.dumps(table).encode()


class LedgerFile:
    """The database, open. What SQLite reports is raised as LedgerError.

    Without ``flush`` what is committed outlasts a kill of the process, and not a power cut.
    """

    def __init__(self, path: Path, *, create: bool, flush: bool = True) -> None:
        self.path = path
        self._flush = flush
        self._lock_path = path.with_name("ledger.lock")
        self._head_path = path.with_name("ledger.head")
        if create:
            make_private_folder(path.parent, flush=flush)
        elif not path.exists():
            raise LedgerError(f"no ledger at {path}")
        if create and not path.exists() and self._head_path.exists():
            raise LedgerError(f"the ledger {path} is lost: only its head is there; bring back {path.name}")
        if create and not path.exists():
            self._make_private()
        with self._reported(entry=1):
            self._db = sqlite3.connect(path, isolation_level=None)
            with self.locked():
                self._prepare(create=create)
        self._heads: dict[bytes, Head] = {}  # the last one, by its text
        self.members: Mapping[int, bytes] = _Members(self)

    def _make_private(self) -> None:
        """Make the file, for its owner alone; what SQLite puts beside it gets the same permissions."""
        try:
            os.close(open_private(self.path, os.O_CREAT | os.O_RDWR))
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Under the lock: the last to close moves the write-ahead log into the database."""
        with closing(self._db), self.locked():
            self._db.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger's lock; it falls open when its holder dies."""
        try:
            file = os.fdopen(open_private(self._lock_path, os.O_CREAT | os.O_RDWR), "ab")
        except OSError as error:
            raise LedgerError(f"{self._lock_path} cannot be written: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is appended within is on disk afterwards, or none of it is."""
        with self._reported():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def append(self, row: Row) -> None:
        values = (row.number, row.body, row.signature)
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", values)

    def append_members(self, dataset: int, digests: bytes) -> None:
        self._db.execute("INSERT INTO members VALUES (?, ?)", (dataset, digests))

    def rows(self, *, after: int = 0) -> Iterator[Row]:
        """The entries after a number, in order. Raises LedgerError naming the first that cannot be read."""
        found = after
        query = "SELECT number, body, signature FROM entries WHERE number > ? ORDER BY number"
        try:
            for number, body, signature in self._db.execute(query, (after,)):
                found += 1
                if number != found:
                    raise LedgerError(f"it is missing; the next one is entry {number}", entry=found)
                if not (isinstance(body, bytes) and isinstance(signature, bytes)):
                    raise LedgerError("it is not made of bytes", entry=found)
                yield Row(number=number, body=body, signature=signature)
        except _FAILURES as error:
            raise LedgerError(f"it cannot be read: {error}", entry=found + 1) from error

    def digests(self, dataset: int) -> bytes | None:
        with self._reported(entry=dataset):
            found = self._db.execute("SELECT digests FROM members WHERE dataset = ?", (dataset,)).fetchone()
        return found[0] if found and isinstance(found[0], bytes) else None

    def datasets(self) -> list[int]:
        with self._reported():
            return [
                number for (number,) in self._db.execute("SELECT dataset FROM members ORDER BY dataset")
            ]

    def write_head(self, head: Head) -> None:
        try:
            if self._heads and not self._flush:
                # Readers hold the lock, numbers only grow, and a rename waits for the disk here and there.
                overwrite(self._head_path, head.text)
            else:
                # After a power cut an older head will do: the database is never behind it.
                write = write_whole if self._head_path.exists() else write_durably
                write(self._head_path, head.text, flush=self._flush)
            self._heads = {head.text: head}
        except OSError as error:
            raise LedgerError(f"{self._head_path} cannot be written: {error.strerror}") from error

    def read_head(self) -> Head | None:
        try:
            text = self._head_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"{self._head_path} cannot be read: {error!r}") from error
        # Each step reads it, and mostly it is what the last one wrote.
        if text not in self._heads:
            self._heads = {text: self._head_of(text)}
        return self._heads[text]

    def _head_of(self, text: bytes) -> Head:
        try:
            table = json.loads(text)
            head = Head(
                entries=int(table["entries"]),
                hash=table["hash"],
                signature=bytes.fromhex(table["signature"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(f"{self._head_path} cannot be read: {error!r}") from error
        if head.text != text:
            raise LedgerError(f"{self._head_path} is not in its canonical form")
        return head

    def _prepare(self, *, create: bool) -> None:
        # Before anything is written: making the file would be flushed as well.
        self._db.execute(f"PRAGMA synchronous = {'FULL' if self._flush else 'OFF'}")
        application = self._pragma("application_id")
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if create and application == 0 and tables == 0:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
        elif application != APPLICATION:
            raise LedgerError(f"{self.path} is not a ledger of Confide", entry=1)
        version = self._pragma("user_version")
        if version != FORMAT:
            raise LedgerError(
                f"{self.path} has format {version}; this Confide reads format {FORMAT}: use the version "
                "that wrote it, or a newer one",
                entry=1,
            )

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _reported(self, entry: int | None = None) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise LedgerError(f"{self.path} cannot be used: {error}", entry=entry) from error


@contextmanager
def copied(path: Path) -> Iterator[LedgerFile]:
    """Open a copy of a ledger, so that reading changes nothing, be it on a disk that cannot be written."""
    if not path.exists():
        raise LedgerError(f"no ledger at {path}")
    with tempfile.TemporaryDirectory(prefix="confide-ledger-") as folder:
        with _read_locked(path.with_name("ledger.lock")):
            for name in (path.name, f"{path.name}-wal"):
                if path.with_name(name).exists():
                    shutil.copyfile(path.with_name(name), Path(folder) / name)
            if path.with_name("ledger.head").exists():
                shutil.copyfile(path.with_name("ledger.head"), Path(folder) / "ledger.head")
        file = LedgerFile(Path(folder) / path.name, create=False)
        try:
            yield file
        finally:
            file.close()


def head_content(entries: int, digest: str) -> bytes:
    """What the head's signature covers."""
    return f"{entries} {digest}".encode()


@contextmanager
def _read_locked(path: Path) -> Iterator[None]:
    """Keep writers out while copying; where there is no lock file nobody writes."""
    if not path.exists():
        yield
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


class _Members(Mapping[int, bytes]):
    """Digests by data set, read when asked for."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def __getitem__(self, dataset: int) -> bytes:
        found = self._file.digests(dataset)
        if found is None:
            raise KeyError(dataset)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(self._file.datasets())

    def __len__(self) -> int:
        return len(self._file.datasets())
