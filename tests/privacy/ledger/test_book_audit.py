"""An auditor's reading of a book: every site's ledger is verified, and each that is broken is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.errors import LedgerError
from privacy.identity import Identity
from privacy.ledger.book_audit import BookAudit, BrokenLedger, audit_book, audits_of_book
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.ledger_book import BOOK, LedgerBook
from tests.privacy.ledgers import DATA, EPSILON, charge, open_ledger

SITES = ("east", "north", "west")
# North has lost most: it has a second run.
CHARGES = {"east": 1, "north": 3, "west": 0}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of three sites: one entry to begin, one for the data, one for a plan, one a charge."""
    path = tmp_path / BOOK
    pages = LedgerBook(path, create=True)
    for site in SITES:
        ledger = open_ledger(pages.pages(site), site=site, identity=Identity.generate())
        dataset = ledger.register(DATA["base"])
        for number in range(CHARGES[site]):
            ledger.reserve(charge(dataset, round=number + 1))
        if site == "north":
            ledger.reserve(charge(dataset, run="run-2"))
    pages.close()
    return path


def change(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    assert database.execute(statement, values).rowcount > 0
    database.commit()
    database.close()


def test_what_all_ledgers_come_to(book: Path) -> None:
    found = audit_book(book)
    each = {audit.site: audit for audit in audits_of_book(book)}
    assert tuple(each) == SITES
    assert each == {site: audit_ledger(book, site=site) for site in SITES}
    assert (found.sites, found.entries, found.charges) == (3, 4 + 8 + 2, 1 + 4 + 0)
    assert found.largest is not None
    assert (found.largest.site, found.largest.budget) == ("north", EPSILON)
    assert found.largest.epsilon == each["north"].datasets[0].epsilon > each["east"].datasets[0].epsilon
    assert found.broken == ()


def test_looking_changes_nothing(book: Path) -> None:
    before = book.read_bytes()
    audit_book(book)
    assert book.read_bytes() == before


def test_data_without_a_bound_have_lost_most(book: Path) -> None:
    pages = LedgerBook(book)
    ledger = open_ledger(pages.pages("south"), site="south", identity=Identity.generate())
    ledger.record_unprotected(
        dataset=ledger.register(DATA["base"]), run="bare", manifest="b" * 64, round_number=1
    )
    pages.close()
    found = audit_book(book).largest
    assert found is not None
    assert (found.site, found.epsilon) == ("south", None)


def test_a_book_without_data_has_no_largest_loss(tmp_path: Path) -> None:
    path = tmp_path / BOOK
    pages = LedgerBook(path, create=True)
    assert audit_book(path) == BookAudit(sites=0, entries=0, charges=0, largest=None, broken=())
    open_ledger(pages.pages("east"), site="east")
    pages.close()
    assert audit_book(path) == BookAudit(sites=1, entries=1, charges=0, largest=None, broken=())


@pytest.mark.parametrize(
    ("spoil", "entry", "words"),
    [
        (
            "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), 'training', 'metrics') AS BLOB) "
            "WHERE site = 'north' AND number = 4",
            4,
            "entry 4: ",
        ),
        ("DELETE FROM entries WHERE site = 'north' AND number = 2", 2, "it is missing"),
        ("DELETE FROM entries WHERE site = 'north' AND number = 8", 8, "it is lost"),
        ("DELETE FROM entries WHERE site = 'north'", 1, "the ledger is empty"),
        ("DELETE FROM heads WHERE site = 'north'", None, "its signed head is lost"),
        ("UPDATE heads SET entries = 7 WHERE site = 'north'", None, "ledger.head was changed"),
        ("DELETE FROM members WHERE site = 'north'", 2, "fingerprint"),
    ],
)
def test_each_broken_ledger_is_named_and_the_others_are_read(
    book: Path, spoil: str, entry: int | None, words: str
) -> None:
    change(book, spoil)
    change(book, "UPDATE entries SET signature = zeroblob(64) WHERE site = 'west' AND number = 2")
    found = audit_book(book)
    assert [broken.site for broken in found.broken] == ["north", "west"]
    assert found.broken[0].entry == entry
    assert words in found.broken[0].reason
    assert found.broken[1] == BrokenLedger(
        site="west", entry=2, reason="entry 2: the site's key did not sign it"
    )
    assert (found.sites, found.entries, found.charges) == (3, 4, 1)
    assert found.largest is not None
    assert found.largest.site == "east"
    with pytest.raises(LedgerError, match=f"site north: .*{words}") as raised:
        list(audits_of_book(book))
    assert raised.value.entry == entry


def test_a_ledger_under_another_sites_name_is_named(book: Path) -> None:
    for table in ("entries", "members", "heads"):
        change(book, f"UPDATE {table} SET site = 'south' WHERE site = 'north'")  # noqa: S608
    (broken,) = audit_book(book).broken
    assert broken == BrokenLedger(site="south", entry=1, reason="entry 1: it is of site north")


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("entries", "body", "not made of bytes"),
        ("entries", "signature", "not made of bytes"),
        ("members", "digests", "fingerprint"),
        ("heads", "entries", "the head of north cannot be read"),
        ("heads", "hash", "the head of north cannot be read"),
        ("heads", "signature", "the head of north cannot be read"),
    ],
)
def test_a_book_whose_columns_hold_anything_is_read_all_the_same(
    book: Path, table: str, column: str, words: str
) -> None:
    """Whoever made it need not have made its tables as this Confide does."""
    loosen(book, table)
    wrong = b"1" if column in ("entries", "hash") else 1.5
    change(book, f"UPDATE {table} SET {column} = ? WHERE site = 'north'", wrong)  # noqa: S608
    (broken,) = audit_book(book).broken
    assert (broken.site, words in broken.reason) == ("north", True)


def loosen(path: Path, table: str) -> None:
    """Make a table again whose columns are of any type."""
    database = sqlite3.connect(path)
    database.executescript(
        f"CREATE TABLE loose AS SELECT * FROM {table}; DROP TABLE {table};"  # noqa: S608
        f"ALTER TABLE loose RENAME TO {table};"
    )
    database.close()


@pytest.mark.parametrize(
    "write",
    [lambda path: None, lambda path: path.write_bytes(b"no database" * 100)],
    ids=["missing", "no database"],
)
def test_a_book_that_cannot_be_read_is_said_so(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / BOOK)
    with pytest.raises(LedgerError, match=r"book\.db"):
        audit_book(tmp_path / BOOK)


def test_another_sites_ledger_is_not_the_one_that_was_meant(tmp_path: Path) -> None:
    open_ledger(tmp_path, site="east").close()
    assert audit_ledger(tmp_path / "ledger.db", site="east").site == "east"
    with pytest.raises(LedgerError, match="the ledger is of site east, not of west"):
        audit_ledger(tmp_path / "ledger.db", site="west")
