"""What goes wrong on a disk is noticed, and neither lost nor spent."""

# ruff: noqa: S607

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from privacy import durable
from privacy.errors import LedgerError, PlanError
from privacy.identity import verify
from privacy.ledger import chain
from privacy.ledger.budget import make_budget
from privacy.ledger.entries import PURPOSE, Approved, Created, Entry
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_file import HEAD_PURPOSE, LedgerFile, Row
from tests import children
from tests.needs import needs
from tests.privacy.ledgers import (
    DATA,
    DELTA,
    EPSILON,
    IDENTITY,
    NOW,
    OTHER,
    SMALL,
    charge,
    open_ledger,
    rows,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


# Ledgers that are not this one.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"site": "site-2"}, "of site site-1, not of site-2"),
        ({"identity": OTHER}, "site's key did not sign it|changed, or is another site's"),
        ({"delta": 1e-6}, "delta=1e-05"),
        ({"order": 3}, "order="),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "finite"),
    ],
)
def test_another_ledger_than_was_begun_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    open_ledger(tmp_path).close()
    before = rows(tmp_path)
    with pytest.raises((LedgerError, PlanError), match=named):
        open_ledger(tmp_path, **change)
    assert rows(tmp_path) == before
    open_ledger(tmp_path, order=make_budget(epsilon=EPSILON, delta=DELTA).order).close()


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"delta": 1.0}, {"delta": 0.0}, {"order": 1}])
def test_a_ledger_that_promises_nothing_is_not_begun(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(PlanError):
        open_ledger(tmp_path, **change)
    open_ledger(tmp_path).close()
    assert len(rows(tmp_path)) == 1


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("PRAGMA user_version = 2")
    for opened in (lambda: open_ledger(tmp_path), lambda: rows(tmp_path)):
        with pytest.raises(LedgerError, match="format 2"):
            opened()


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db", create=True)
    created = Created(
        version=2,
        site="site-1",
        public_key=IDENTITY.public.hex(),
        budget=make_budget(epsilon=EPSILON, delta=DELTA),
    )
    entry = Entry(number=1, time=NOW, previous="0" * 64, salt="", event=created)
    with file.transaction():
        file.append(Row(number=1, body=entry.body, signature=IDENTITY.sign(PURPOSE, entry.body)))
    file.close()
    with pytest.raises(LedgerError, match="version 2") as caught:
        open_ledger(tmp_path)
    assert caught.value.entry == 1


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerError):
        open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("CREATE TABLE theirs (x)")
    content = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerError, match="not a ledger"):
        open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == content


# Disks and what they lose.


def _copy(home: Path, to: Path) -> Path:
    """What a process leaves that is killed now: the files as the system has them."""
    shutil.copytree(home, to)
    return to


def _spend(ledger: Ledger, rounds: range) -> int:
    dataset = ledger.register(DATA["base"])
    for number in rounds:
        ledger.reserve(charge(dataset, round=number))
    return dataset


def test_a_cut_off_file_is_refused_at_every_length(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "whole")
    _spend(ledger, range(3))
    ledger.close()
    whole = (tmp_path / "whole" / "ledger.db").read_bytes()
    for length in [0, 1, 99, 100, 511, 512, *range(1024, len(whole), 1024), len(whole) - 1]:
        home = _copy(tmp_path / "whole", tmp_path / str(length))
        (home / "ledger.db").write_bytes(whole[:length])
        with pytest.raises(LedgerError):
            open_ledger(home)
        (home / "ledger.db").unlink()
        for left in home.glob("ledger.db-*"):
            left.unlink()
        (home / "ledger.db").write_bytes(whole)
        assert rows(home) == rows(tmp_path / "whole")
        reopened = open_ledger(home)
        assert reopened.reserve(charge(2, round=9)).taken == 4
        reopened.close()


def test_a_lost_log_is_noticed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "home")
    ledger.close()  # the first entries move into the database
    ledger = open_ledger(tmp_path / "home")
    _spend(ledger, range(3))
    killed = _copy(tmp_path / "home", tmp_path / "killed")
    assert open_ledger(_copy(killed, tmp_path / "well")).reserve(charge(2, round=3)).taken == 4
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (killed / name).unlink()
    with pytest.raises(LedgerError, match="write-ahead log is gone") as caught:
        open_ledger(killed)
    assert caught.value.entry == 2


def test_an_older_copy_is_noticed_by_new_and_by_open_ledgers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ledger = open_ledger(home)
    _spend(ledger, range(3))
    ledger.close()
    older = _copy(home, tmp_path / "older")
    ledger = open_ledger(home)
    _spend(ledger, range(3, 6))
    ledger.close()
    shutil.copyfile(older / "ledger.db", home / "ledger.db")
    with pytest.raises(LedgerError, match="older copy") as caught:
        open_ledger(home)
    assert caught.value.entry == 7


def test_a_lost_database_is_not_begun_anew(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    _spend(ledger, range(1))
    ledger.close()
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="lost"):
        open_ledger(tmp_path)
    assert not (tmp_path / "ledger.db").exists()
    with pytest.raises(LedgerError, match="no ledger"):
        rows(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"null",
        b'{"entries": 1}',
        b'{"entries": "3", "hash": "", "signature": ""}',
        b'{"entries": 3, "hash": 3, "signature": "00"}',
    ],
)
def test_a_broken_head_is_named(tmp_path: Path, text: bytes) -> None:
    ledger = open_ledger(tmp_path)
    _spend(ledger, range(1))
    (tmp_path / "ledger.head").write_bytes(text)
    for use in (lambda: ledger.epsilon(2), lambda: open_ledger(tmp_path)):
        with pytest.raises(LedgerError, match=r"ledger\.head"):
            use()


def test_a_head_is_verified_once_and_a_changed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, verified = open_ledger(tmp_path), list[str]()
    _spend(ledger, range(1))

    def counted(public: bytes, purpose: str, content: bytes, signature: bytes) -> None:
        verified.append(purpose)
        verify(public, purpose, content, signature)

    monkeypatch.setattr(chain, "verify", counted)
    for _ in range(3):
        ledger.epsilon(2)
    assert verified == []
    other = open_ledger(tmp_path)
    other.reserve(charge(2, round=1))
    assert verified == [PURPOSE, HEAD_PURPOSE]  # of the last entry, and of what the first ledger wrote
    ledger.epsilon(2)
    assert verified == 2 * [PURPOSE, HEAD_PURPOSE]  # and what the second one wrote
    path = tmp_path / "ledger.head"
    table = json.loads(path.read_text())
    last = table["signature"][-1]
    path.write_text(
        json.dumps(table | {"signature": table["signature"][:-1] + ("0" if last != "0" else "1")})
    )
    for _ in range(2):
        with pytest.raises(LedgerError, match="was changed"):
            ledger.epsilon(2)


def test_a_lost_head_is_named_unless_nothing_was_spent(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    (tmp_path / "ledger.head").unlink()
    dataset = open_ledger(tmp_path).register(DATA["base"])
    (tmp_path / "ledger.head").unlink()
    with pytest.raises(LedgerError, match=r"ledger\.head is lost"):
        ledger.reserve(charge(dataset))


def test_a_head_of_an_older_state_does_not_hide_what_came_after(tmp_path: Path) -> None:
    """A process killed between its commit and its note of it leaves that."""
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    older = (tmp_path / "ledger.head").read_bytes()
    spent = ledger.epsilon(dataset)
    ledger.reserve(charge(dataset, run="run-2"))
    (tmp_path / "ledger.head").write_bytes(older)
    assert open_ledger(tmp_path).epsilon(dataset) > spent
    assert ledger.reserve(charge(dataset, round=7)).taken == 2


@pytest.mark.parametrize("chained", [True, False])
def test_an_entry_that_the_site_did_not_sign_never_counts(tmp_path: Path, chained: bool) -> None:
    """Not in the process that met it either, and its own next entry must not make it good."""
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    honest = rows(tmp_path)
    last = ledger._chain.history.head if chained else "0" * 64
    forged = Entry(
        number=len(honest) + 1,
        time=NOW,
        previous=last,
        salt="",
        event=Approved(run="evil", manifest="c" * 64),
    )
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute(
            "INSERT INTO entries VALUES (?, ?, ?)",
            (forged.number, forged.body, OTHER.sign(PURPOSE, forged.body)),
        )
    for _ in range(3):
        for use in (
            lambda: ledger.reserve(charge(dataset, round=2)),
            lambda: ledger.approved("c" * 64),
            lambda: open_ledger(tmp_path),
        ):
            with pytest.raises(LedgerError) as caught:
                use()
            assert caught.value.entry == forged.number
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DELETE FROM entries WHERE number = ?", (forged.number,))
    assert rows(tmp_path) == honest
    assert ledger.reserve(charge(dataset, round=2)).taken == 2


def test_a_database_that_cannot_grow_spends_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))
    database = ledger._chain._file._db
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    returned = 0
    with pytest.raises(LedgerError, match="full"):  # noqa: PT012 - at which of them is SQLite's affair
        for number in range(1, 100):
            ledger.reserve(charge(dataset, run=f"tiny-{number}", plan=SMALL))
            returned += 1
    before = rows(tmp_path)
    assert len([row for row in before if b'"kind":"released"' in row.body]) == 1 + returned
    database.execute("PRAGMA max_page_count = 1000000")
    assert ledger.epsilon(dataset) == open_ledger(tmp_path).epsilon(dataset)
    ledger.reserve(charge(dataset, run="later", plan=SMALL))
    assert rows(tmp_path)[: len(before)] == before


def test_a_head_that_cannot_be_written_spends_rather_than_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    dataset = _spend(ledger, range(1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "fsync", full)
        with pytest.raises(LedgerError, match=r"ledger\.head cannot be written: No space left"):
            ledger.reserve(charge(dataset, round=2))
    assert ledger.reserve(charge(dataset, round=2)).taken == 3
    assert open_ledger(tmp_path).reserve(charge(dataset, round=3)).taken == 4


OTHER_DISKS = """
import subprocess, sys
from pathlib import Path
from privacy.errors import LedgerError
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.ledger_file import copied
from tests.privacy.ledgers import DATA, charge, make_plan, open_ledger

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

home, small = Path(sys.argv[1]), Path(sys.argv[2])
mount("--bind", str(home), str(home))
mount("-o", "remount,bind,ro", str(home))
try:
    open_ledger(home)
except LedgerError as error:
    assert "Read-only file system" in str(error), error
else:
    raise SystemExit("opened for writing on a read-only disk")
with copied(home / "ledger.db") as file:
    assert len(list(file.rows())) == 5
assert len(audit_ledger(home / "ledger.db").entries) == 5

mount("-t", "tmpfs", "-o", "size=200k", "none", str(small))
ledger = open_ledger(small, epsilon=1000.0)
dataset = ledger.register(DATA["base"])
plan = make_plan(steps=1000)
returned = 0
try:
    for number in range(1000):
        ledger.reserve(charge(dataset, plan=plan, round=number))
        returned += 1
except LedgerError as error:
    said = str(error)
assert returned > 3 and ("full" in said or "No space" in said), (returned, said)
ledger.close()
mount("-o", "remount,size=2m", str(small))
taken = open_ledger(small, epsilon=1000.0).reserve(charge(dataset, plan=plan, round=1000)).taken
# The commit may have been on disk when the note of it found no room: counted, never forgotten.
assert returned + 1 <= taken <= returned + 2, (returned, taken)
print("well")
"""


@needs("unshare")
def test_other_disks(tmp_path: Path) -> None:
    """A disk that is read-only and one that is full, each in a mount namespace of its own."""
    home, small = tmp_path / "home", tmp_path / "small"
    small.mkdir()
    ledger = open_ledger(home)
    _spend(ledger, range(2))
    _copy(home, tmp_path / "killed")  # with its log, as a killed process leaves it
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    done = children.run(
        ["unshare", "-rm", sys.executable, "-c", OTHER_DISKS, tmp_path / "killed", small],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr


def test_the_log_moves_into_the_database_under_the_lock(tmp_path: Path) -> None:
    """Who copies the files holds the lock, and must not meet a database that its last writer is closing."""
    ledger = open_ledger(tmp_path)
    database = ledger._chain._file._db
    closed = []

    class Watched:
        def close(self) -> None:
            with (tmp_path / "ledger.lock").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    closed.append("unlocked")
                except BlockingIOError:
                    closed.append("locked")
            database.close()

    ledger._chain._file._db = Watched()  # type: ignore[assignment]
    ledger.close()
    assert closed[0] == "locked"
