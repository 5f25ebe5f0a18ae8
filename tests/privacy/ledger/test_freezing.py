"""A frozen ledger spends nothing, in whichever process, until a person has cleared that very freeze."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import FrozenError, LedgerError
from privacy.ledger.entries import Entry, Frozen, Unfrozen
from privacy.ledger.freezing import Freeze
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.state import History
from tests.privacy.ledgers import DATA, charge, open_ledger

pytestmark = pytest.mark.usefixtures("no_waiting")

FROZEN = Frozen(job="tweets", audit="ab" * 32, reason="epsilon >= 9 is shown")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def entries(home: Path) -> tuple[Entry, ...]:
    return audit_ledger(home / "ledger.db").entries


def test_nothing_is_spent_while_it_is_frozen(ledger: Ledger, tmp_path: Path) -> None:
    dataset = ledger.register(DATA["base"])
    ledger.reserve(charge(dataset))
    ledger.record(FROZEN)
    before = len(entries(tmp_path))
    with pytest.raises(FrozenError, match="frozen: an audit refuted"):
        ledger.check_open()
    # Whoever does not ask first is stopped as well: the next round, another run, a round without noise.
    for spend in (
        lambda: ledger.reserve(charge(dataset, round=2)),
        lambda: ledger.reserve(charge(dataset, run="run-2", manifest="b" * 64)),
        lambda: ledger.record_unprotected(dataset=dataset, run="r", manifest="c" * 64, round_number=1),
    ):
        with pytest.raises(LedgerError, match="it spends, and the site's ledger is frozen"):
            spend()
    assert len(entries(tmp_path)) == before
    # What spends nothing goes on.
    assert ledger.register(DATA["disjoint"]) == before + 1
    ledger.close_run("run-1")


def test_another_process_finds_out(ledger: Ledger, tmp_path: Path) -> None:
    dataset = ledger.register(DATA["base"])
    open_ledger(tmp_path).record(FROZEN)
    with pytest.raises(FrozenError):
        ledger.check_open()
    with pytest.raises(LedgerError, match="it spends"):
        ledger.reserve(charge(dataset))


def test_a_person_clears_the_freeze_that_they_have_seen(ledger: Ledger, tmp_path: Path) -> None:
    dataset = ledger.register(DATA["base"])
    for entry in (1, 2, 3):  # no entry that froze it
        with pytest.raises(LedgerError, match=f"clears entry {entry}, and the ledger is not frozen"):
            ledger.record(Unfrozen(entry=entry, reason="mended"))
    ledger.record(FROZEN)
    ledger.record(FROZEN)  # by another audit, which nobody has looked at yet
    with pytest.raises(LedgerError, match="clears entry 2, and the ledger is frozen by entry 4"):
        ledger.record(Unfrozen(entry=2, reason="mended"))
    assert audit_ledger(tmp_path / "ledger.db").frozen == 4
    ledger.record(Unfrozen(entry=4, reason="mended"))
    # The other audit's evidence is another matter.
    assert audit_ledger(tmp_path / "ledger.db").frozen == 3
    with pytest.raises(FrozenError):
        ledger.check_open()
    ledger.record(Unfrozen(entry=3, reason="mended"))
    assert audit_ledger(tmp_path / "ledger.db").frozen is None
    ledger.check_open()
    assert ledger.reserve(charge(dataset)).taken == 1
    with pytest.raises(LedgerError, match="not frozen"):
        ledger.record(Unfrozen(entry=4, reason="again"))


def test_an_audit_names_what_was_spent_while_it_was_frozen(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a site whose code does not look spends on, and its own signature is under it."""
    dataset = ledger.register(DATA["base"])
    ledger.record(FROZEN)
    with monkeypatch.context() as patched:
        patched.setattr(Freeze, "check", lambda _self: None)
        ledger.reserve(charge(dataset))
    with pytest.raises(LedgerError, match="entry 4: it spends, and the site's ledger is frozen"):
        audit_ledger(tmp_path / "ledger.db")
    with pytest.raises(LedgerError, match="entry 4: it spends"):
        open_ledger(tmp_path)


def test_a_history_says_by_what_it_is_frozen(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record(FROZEN)
    history = History({})
    for entry in entries(tmp_path):
        history.add(entry)
    assert (history.freeze.by, history.freeze.entry) == (FROZEN, 2)
