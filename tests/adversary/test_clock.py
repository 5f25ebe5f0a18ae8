"""A clock jumps ten years ahead and is set right again: a ledger is stopped by neither for good."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from confide.cli import main
from privacy.errors import LedgerError
from privacy.ledger.entries import PURPOSE, ClockSet, Entry, Rebudgeted, read_entry
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.ledger_file import LedgerFile, Row
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import charges, join, train
from tests.privacy.ledgers import DATA, IDENTITY, NOW, charge, open_ledger, rows

DAY = 86_400
YEARS = 3652 * DAY


class Clock:
    """A clock that anybody may set."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The machine's own, for whatever asks for it."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setitem(Ledger.open.__func__.__kwdefaults__, "clock", clock)
    return clock


def times(home: Path) -> list[int]:
    return [entry.time for entry in audit_ledger(home / "ledger.db").entries]


def test_a_ledger_does_not_follow_a_clock_ten_years_ahead(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock=clock)
    dataset = ledger.register(DATA["base"])
    ledger.reserve(charge(dataset))
    clock.now += YEARS
    with pytest.raises(LedgerError, match=r"3652 days ahead of the last entry.*confide site accept-clock"):
        ledger.reserve(charge(dataset, round=2))
    clock.now -= YEARS
    assert ledger.reserve(charge(dataset, round=2)).taken == 2
    assert set(times(tmp_path)) == {NOW}


def test_a_site_that_was_idle_for_months_goes_on_by_a_signed_time(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock=clock)
    dataset = ledger.register(DATA["base"])
    clock.now += 200 * DAY
    ledger.has_seen(clock.now - 3 * DAY)  # a request may be on its way for days
    ledger.has_seen(clock.now - 100 * DAY)
    assert ledger.reserve(charge(dataset)).taken == 1
    clock.now += YEARS
    with pytest.raises(LedgerError, match="ahead of"):
        ledger.reserve(charge(dataset, round=2))


def written_ahead(home: Path) -> Clock:
    """A ledger with entries that were written under a clock ten years ahead, as the custodian let it."""
    clock = Clock()
    ledger = open_ledger(home, clock=clock)
    dataset = ledger.register(DATA["base"])
    ledger.reserve(charge(dataset))
    clock.now += YEARS
    ledger.has_seen(clock.now)  # the coordinator's clock is wrong, too, or it lies
    ledger.reserve(charge(dataset, round=2))
    ledger.close()
    clock.now -= YEARS - 60
    return clock


def test_a_clock_that_was_set_back_is_refused_until_a_person_accepts_it(tmp_path: Path) -> None:
    clock = written_ahead(tmp_path)
    before = rows(tmp_path)
    ledger = open_ledger(tmp_path, clock=clock)
    dataset = ledger.register(DATA["base"])
    for _ in range(2):
        with pytest.raises(
            LedgerError, match=r"went backwards.*3652 days later.*confide site accept-clock"
        ):
            ledger.reserve(charge(dataset, round=3))
        with pytest.raises(LedgerError, match="went backwards"):
            ledger.register(DATA["disjoint"])
    assert rows(tmp_path) == before

    other = open_ledger(tmp_path, clock=clock, accept_clock=True)
    # The process that had the ledger open goes on, and so does one that opens it anew.
    assert ledger.reserve(charge(dataset, round=3)).taken == 3
    other.close()
    ledger.close()
    assert open_ledger(tmp_path, clock=clock).reserve(charge(dataset, round=4)).taken == 4
    assert times(tmp_path) == [NOW, NOW, NOW, NOW, NOW + YEARS, *[NOW + 60] * 3]
    (found,) = [
        e.event for e in audit_ledger(tmp_path / "ledger.db").entries if isinstance(e.event, ClockSet)
    ]
    assert found == ClockSet(before=NOW + YEARS)


def test_a_budget_that_changed_with_the_clock_does_not_keep_it_from_being_accepted(tmp_path: Path) -> None:
    clock = written_ahead(tmp_path)
    with pytest.raises(LedgerError, match="went backwards"):
        open_ledger(tmp_path, clock=clock, epsilon=4.0)
    assert open_ledger(tmp_path, clock=clock, epsilon=4.0, accept_clock=True).budget.epsilon == 4.0


def test_a_clock_that_is_right_needs_no_acceptance(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    for later in (0, 5, 29 * DAY, -100):
        open_ledger(tmp_path, clock=lambda later=later: NOW + later, accept_clock=True).close()
    assert len(rows(tmp_path)) == 1


def test_what_a_wrong_clock_began_goes_on_by_the_right_one(tmp_path: Path) -> None:
    open_ledger(tmp_path, clock=lambda: NOW + YEARS).close()
    ledger = open_ledger(tmp_path, accept_clock=True)
    assert ledger.reserve(charge(ledger.register(DATA["base"]))).taken == 1


def forge(home: Path, event: Any, time: int) -> None:
    """Write an entry under the site's own key, past all that a ledger checks."""
    before = rows(home)
    last = read_entry(before[-1].body, number=len(before))
    entry = Entry(number=len(before) + 1, time=time, previous=last.hash, salt="", event=event)
    file = LedgerFile(home / "ledger.db", create=False)
    with file.transaction():
        row = Row(number=entry.number, body=entry.body, signature=IDENTITY.sign(PURPOSE, entry.body))
        file.append(row)
    file.close()


@pytest.mark.parametrize(
    ("event", "time", "words"),
    [
        (Rebudgeted(epsilon=3.0), NOW - 1, "older than the entry before"),
        (ClockSet(before=NOW - 1), NOW - 10, "time before is wrong"),
        (ClockSet(before=NOW + YEARS), NOW + 10, "time before is wrong"),
    ],
)
def test_only_an_acceptance_that_tells_the_truth_is_older_than_what_was_before(
    tmp_path: Path, event: Any, time: int, words: str
) -> None:
    open_ledger(tmp_path).close()
    forge(tmp_path, event, time)
    with pytest.raises(LedgerError, match=words):
        audit_ledger(tmp_path / "ledger.db")
    with pytest.raises(LedgerError, match=words):
        open_ledger(tmp_path)


# A site, and its custodian.


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


class Federation:
    """A site that answers, and the coordinator that it has pinned."""

    def __init__(self, home: Path, folder: Path, world: World) -> None:
        self.coordinator = Coordinator()
        self.home = home
        self.world = world
        self.manifest = world.manifest("run")
        self.site_toml = write_site(home, folder, self.coordinator.identity)
        self.resident = SiteHost(home, read_site_file(self.site_toml), planner=plan_here)
        self.resident.check_ledger()

    def ask(self, envelope: bytes) -> Reply:
        public = self.coordinator.identity.public
        opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
        return Reply.FromString(self.resident.answer(opened))

    def join(self, **changes: Any) -> Reply:
        return self.ask(self.coordinator.join(self.manifest, **changes))

    def train(self, number: int, **changes: Any) -> Reply:
        return self.ask(self.coordinator.train(self.manifest, self.world, number, **changes))


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["confide", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    output, errors = capsys.readouterr()
    return int(caught.value.code or 0), output, errors


def test_ten_years_ahead_and_back_costs_a_site_a_command(
    tmp_path: Path,
    tiny_folder: Path,
    world: World,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = Federation(tmp_path / "home", tiny_folder, world)
    assert site.join().HasField("joined")
    assert site.train(1).HasField("trained")

    # A request of now, and one that a coordinator of the same clock signed with ten years of validity.
    right = clock.now
    clock.now += YEARS
    refused = site.train(2, sent=right, expires=clock.now + 600).refused
    assert refused.reason == "the site cannot use its ledger; its own log says why"
    assert len(charges(site.home)) == 1

    # Whoever believes the wrong clock writes by it; set right, it stops everything.
    assert site.train(2).HasField("trained")
    clock.now = right + 60
    assert "cannot use its ledger" in site.train(3).refused.reason
    assert len(charges(site.home)) == 2
    assert Home(site.home).last_time() == int(right) + YEARS

    code, output, _ = call(monkeypatch, capsys, "site", "accept-clock", site.home, "--yes")
    assert code == 0
    assert "3652 days before the ledger's last entry" in output
    assert site.train(3).HasField("trained")
    assert len(charges(site.home)) == 3
    code, output, _ = call(monkeypatch, capsys, "audit", "ledger", site.home)
    assert (code, "accepted the clock, 3652 days behind the entry before" in output) == (0, True)
    code, output, _ = call(monkeypatch, capsys, "audit", "ledger", site.home, "--json")
    (told,) = json.loads(output)["clock"]
    assert (told["time"], told["before"]) == (int(right) + 60, int(right) + YEARS)

    # There is nothing to accept any more.
    code, output, errors = call(monkeypatch, capsys, "site", "accept-clock", site.site_toml, "--yes")
    assert (code, output) == (2, "")
    assert "nothing to accept" in errors


def test_a_site_that_was_idle_for_months_needs_no_command(
    tmp_path: Path, tiny_folder: Path, world: World, clock: Clock
) -> None:
    site = Federation(tmp_path / "home", tiny_folder, world)
    assert site.join().HasField("joined")
    for number in (1, 2):
        clock.now += 100 * DAY
        assert site.train(number).HasField("trained")


def test_a_custodian_who_does_not_agree_changes_nothing(
    tmp_path: Path,
    tiny_folder: Path,
    world: World,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = Federation(tmp_path / "home", tiny_folder, world)
    clock.now += YEARS
    monkeypatch.setattr("typer.confirm", lambda _question: False)
    before = rows(site.home)
    code, output, _ = call(monkeypatch, capsys, "site", "accept-clock", site.home)
    assert (code, output.splitlines()[-1]) == (0, "Nothing was changed: set the clock right")
    assert rows(site.home) == before
    assert "3652 days after the ledger's last entry" in output


def test_a_simulated_home_is_as_old_as_it_likes(
    tmp_path: Path, world: World, tiny_folder: Path, clock: Clock
) -> None:
    home, manifest = tmp_path / "home", world.manifest("run")
    for number in (1, 2):
        site = World(tiny.job(tiny_folder)).site("site-1", home=home)
        assert join(site, manifest).HasField("joined")
        assert train(site, manifest, world, number).HasField("trained")
        clock.now += 100 * DAY


def test_an_entry_of_the_clock_is_read_as_it_was_written() -> None:
    entry = Entry(number=2, time=NOW, previous="0" * 64, salt="", event=ClockSet(before=NOW + YEARS))
    assert read_entry(entry.body, number=2) == entry
