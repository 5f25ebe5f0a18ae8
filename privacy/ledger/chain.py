"""The chain of a ledger's entries: on disk and in memory, each one signed, and none lost from its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from privacy.errors import LedgerError, SignatureError
from privacy.identity import Identity, verify
from privacy.ledger.entries import PURPOSE, ClockSet, Entry, Event, read_entry
from privacy.ledger.ledger_clock import check_clock
from privacy.ledger.ledger_file import HEAD_PURPOSE, Head, Row, head_content
from privacy.ledger.state import History


class EntryFile(Protocol):
    """What a chain is kept in: a file of its own, or pages of a book. Raises LedgerError."""

    @property
    def members(self) -> Mapping[int, bytes]: ...

    def close(self) -> None: ...

    def locked(self) -> AbstractContextManager[None]: ...

    def transaction(self) -> AbstractContextManager[None]: ...

    def rows(self, *, after: int = 0) -> Iterator[Row]: ...

    def append(self, row: Row) -> None: ...

    def append_members(self, dataset: int, digests: bytes) -> None: ...

    def read_head(self) -> Head | None: ...

    def write_head(self, head: Head) -> None: ...


class Chain:
    """The entries of one ledger, which any number of processes may hold at the same time.

    ``history`` is what they add up to. What other processes wrote is read, and its last signature verified,
    whenever a block of ``reading`` or ``writing`` begins; the signed head is written when one of writing
    ends. Both raise LedgerError.
    """

    def __init__(self, file: EntryFile, identity: Identity, clock: Callable[[], float]) -> None:
        self._file = file
        self._identity = identity
        self._clock = clock
        self.history = History(file.members)
        self._hashes: list[str] = []
        self._seen: float | None = None
        self._heads: set[str] = set()
        self._head: Head | None = None  # the last one whose signature is known to be good

    def has_seen(self, moment: float | None) -> None:
        """See ``Ledger.has_seen``."""
        if moment is not None:
            self._seen = moment if self._seen is None else max(self._seen, moment)

    def holds(self, head: str) -> bool:
        """Whether an entry has this hash."""
        return head in self._heads

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def append_members(self, number: int, joined: bytes) -> None:
        """Write down the digests of a data set that entry ``number`` registers, within ``writing``."""
        self._file.append_members(number, joined)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block in which nobody else writes."""
        with self._file.locked():
            self._catch_up()
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A block whose entries are all on disk after it, or none."""
        with self.reading():
            before = self.history.length
            try:
                with self._file.transaction():
                    yield
            except BaseException:
                if self.history.length != before:
                    self._forget()  # what was added in memory is not on disk
                raise
            if self.history.length != before:
                self._write_head()

    def add(self, event: Event) -> None:
        """Sign an event and put it at the end, within ``writing``."""
        now, last = int(self._clock()), self.history.last
        accepted = last is None or isinstance(event, ClockSet)
        if last is not None and not accepted:
            check_clock(now, last=last.time, seen=self._seen)
        entry = Entry(
            number=self.history.length + 1,
            time=now if last is None or accepted else max(now, last.time),
            previous=self.history.head,
            salt=secrets.token_hex(16),
            event=event,
        )
        # What could not be read again would close the ledger for good.
        read_entry(entry.body, number=entry.number)
        signature = self._identity.sign(PURPOSE, entry.body)
        self._file.append(Row(number=entry.number, body=entry.body, signature=signature))
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        self.history.add(entry)
        self._hashes.append(entry.hash)
        self._heads.add(entry.hash)

    def _write_head(self) -> None:
        entries, digest = self.history.length, self.history.head
        signature = self._identity.sign(HEAD_PURPOSE, head_content(entries, digest))
        self._head = Head(entries=entries, hash=digest, signature=signature)
        self._file.write_head(self._head)

    def _catch_up(self) -> None:
        """Verify what other processes wrote since; the first time, everything."""
        row = None
        try:
            for row in self._file.rows(after=self.history.length):
                self._take(read_entry(row.body, number=row.number))
            if row is not None:
                self._check_signature(row)
            head = self._file.read_head()
            check_head(head, self._hashes, self._identity.public, known=self._head)
            self._head = head
        except BaseException:
            self._forget()  # entries without a good signature after them must not count the next time
            raise

    def _forget(self) -> None:
        """Begin anew from what is on disk."""
        self.history, self._hashes, self._heads = History(self._file.members), [], set()
        self._head = None

    def _check_signature(self, row: Row) -> None:
        try:
            verify(self._identity.public, PURPOSE, row.body, row.signature)
        except SignatureError as error:
            raise LedgerError(
                "this site's key did not sign it: the ledger is another site's, or was changed",
                entry=row.number,
            ) from error


def check_head(head: Head | None, hashes: list[str], public: bytes, *, known: Head | None = None) -> None:
    """Raises LedgerError if a ledger whose entries have ``hashes`` falls short of its head.

    The signature of a head that is ``known``, to the last bit, is not verified again.
    """
    if head is None:
        # The first commit may have been cut off from its head.
        if len(hashes) > 1:
            raise LedgerError("ledger.head is lost: it tells whether the database has lost entries")
        return
    try:
        if head != known:
            verify(public, HEAD_PURPOSE, head.content, head.signature)
    except SignatureError as error:
        raise LedgerError("ledger.head was changed, or is another site's") from error
    if head.entries > len(hashes):
        raise LedgerError(
            f"it is lost, with all up to entry {head.entries}: an older copy of the database was put back, "
            "or its write-ahead log is gone",
            entry=len(hashes) + 1,
        )
    if head.entries < 1 or head.hash != hashes[head.entries - 1]:
        raise LedgerError("its hash does not match ledger.head", entry=max(head.entries, 1))
