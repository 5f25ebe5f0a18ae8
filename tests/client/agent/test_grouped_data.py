"""A site whose data name whose a row is, and jobs whose unit is that person."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.custody.data_check import check_data
from client.custody.data_set import read_data_set
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.errors import DataError
from privacy.ledger.entries import Begun, Registered
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import charges

Host = Callable[..., SiteHost]
PEOPLE, ROWS = 60, 240  # four rows each


def write_people(path: Path, *, nobody: int = 0, rows: list[tuple[str, str, str]] | None = None) -> Path:
    """The tiny rows with a person each; the first ``nobody`` of them are nobody's."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "person"])
        for number, (text, label, _) in enumerate(rows or tiny.rows()):
            writer.writerow([text, label, "" if number < nobody else f"p{number % PEOPLE}"])
    return path


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> Host:
    """A site whose data are people's; ``keys`` are those of ``[data.data]``."""

    def resident(*, nobody: int = 0, rules: Any = None, **keys: Any) -> SiteHost:
        people = write_people(tmp_path / "people.csv", nobody=nobody)
        data = {"source": str(people), "label": "label", "labels": ["no", "yes"], "group": "person"} | keys
        path = write_site(
            tmp_path / "home",
            tiny_folder,
            coordinator.identity,
            data={"data": {key: value for key, value in data.items() if value is not None}},
            rules=rules or {},
        )
        return SiteHost(path.parent, read_site_file(path), planner=plan_here)

    return resident


def ask(resident: SiteHost, coordinator: Coordinator, envelope: bytes) -> Reply:
    public = coordinator.identity.public
    opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
    return Reply.FromString(resident.answer(opened))


def of_groups(manifest: Manifest, folder: Path, *, most: int = 2, **data: Any) -> Manifest:
    data = {"group": "anything", "rows_per_group": most} | data
    job = tiny.job(folder, data=data, privacy={"unit": "group"})
    return replace(manifest, job=job)


def test_a_site_without_a_column_of_groups_refuses(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make(group=None)
    reply = ask(resident, coordinator, coordinator.join(of_groups(world.manifest("run"), tiny_folder)))
    assert "data.alias='data': this site names no column of groups" in reply.refused.reason


def test_a_policy_names_the_units_it_allows(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make(rules={"units": ["example", "site"]})
    reply = ask(resident, coordinator, coordinator.join(of_groups(world.manifest("run"), tiny_folder)))
    assert "expected one of example, site, got group" in reply.refused.reason


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"group": "patient"}, "data.group"),
        ({"task": "document-classification"}, "one table, each of which is one example"),
    ],
)
def test_data_without_groups_are_refused_at_the_start(make: Host, keys: Any, words: str) -> None:
    with pytest.raises(DataError, match=r"\[data\.data\] of site\.toml: .*" + words):
        make(**keys)


def test_a_round_draws_people_and_is_charged_for_them(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make(nobody=1)
    manifest = of_groups(world.manifest("run"), tiny_folder)
    assert ask(resident, coordinator, coordinator.join(manifest)).HasField("joined")
    session = resident._site._session
    assert session is not None
    assert (session.plan.unit, session.plan.sampling_rate) == ("group", 16 / PEOPLE)
    assert len(session.materials.examples) == PEOPLE
    assert session.materials.examples.rows_an_example == 2
    assert ask(resident, coordinator, coordinator.train(manifest, world)).HasField("trained")
    home = resident._home.path
    events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
    (begun,) = [event for event in events if isinstance(event, Begun)]
    assert begun.plan == session.plan
    # By each row that it holds, whether a run counts it or not, and by each person.
    assert [event.examples for event in events if isinstance(event, Registered)] == [ROWS + PEOPLE]
    assert len(charges(home)) == 1


def test_runs_of_both_units_spend_from_one_budget(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make()
    spent = []
    for name, manifest in (
        ("first", replace(world.manifest("first"), job=tiny.job(tiny_folder))),
        ("second", of_groups(world.manifest("second"), tiny_folder)),
        ("third", of_groups(world.manifest("third"), tiny_folder, most=4)),
    ):
        joined = ask(resident, coordinator, coordinator.join(manifest))
        assert joined.HasField("joined"), joined.refused.reason
        reply = ask(resident, coordinator, coordinator.train(manifest, world))
        assert reply.HasField("trained"), (name, reply.refused.reason)
        spent.append(next(iter(resident._site.own.spent()))[1])
    assert 0 < spent[0] < spent[1] < spent[2]
    events = [entry.event for entry in audit_ledger(resident._home.path / "ledger.db").entries]
    assert len([event for event in events if isinstance(event, Registered)]) == 1


def test_two_data_sets_of_the_same_people_are_charged_together(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path, tmp_path: Path
) -> None:
    """No row is in both, and each person is."""
    later = write_people(tmp_path / "later.csv", rows=tiny.rows(480, seed=0)[240:])
    first = make()
    ledger = first._home.open_ledger(SITE, first._home.identity())
    number = ledger.register(first._data["data"].members)
    ledger.close()
    second = make(source=str(later))
    assert not set(first._data["data"].digests) & set(second._data["data"].digests)
    manifest = of_groups(world.manifest("run"), tiny_folder)
    assert ask(second, coordinator, coordinator.join(manifest)).HasField("joined")
    assert ask(second, coordinator, coordinator.train(manifest, world)).HasField("trained")
    session = second._site._session
    assert session is not None
    assert session.dataset != number
    assert session.ledger.epsilon(number) == session.ledger.epsilon(session.dataset) > 0


def test_who_is_in_two_sources_of_a_mix_is_a_group_of_the_first(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path, tmp_path: Path
) -> None:
    write_people(tmp_path / "more.csv", rows=tiny.rows(340)[240:])  # of the same 60, with other rows
    resident = make()
    more = resident._file.data["data"].model_copy(update={"source": str(tmp_path / "more.csv")})
    resident._data["more"] = read_data_set("more", more)
    mix = [{"alias": "more", "source": "/nowhere.csv", "share": 0.25}]
    manifest = of_groups(world.manifest("run"), tiny_folder, mix=mix)
    found = resident.find_data(manifest)
    assert found.parts == (PEOPLE, PEOPLE)
    assert [content is None for content in found.rows.contents] == [False] * PEOPLE + [True] * PEOPLE
    assert len(set(found.members)) == ROWS + 100 + PEOPLE


def test_the_custodian_hears_of_rows_that_are_nobodys(make: Host) -> None:
    resident = make(nobody=3)
    (found,) = check_data(resident._file)
    assert (
        found.oddities[0]
        == f"237 rows are of {PEOPLE} groups; 3 are of none, and runs for groups leave them out"
    )
