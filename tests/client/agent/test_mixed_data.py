"""A site with several data sets, and jobs that mix them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.accounting.mixed_plan import MixedPlan, Source
from privacy.ledger.entries import Registered
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import charges

Host = Callable[..., SiteHost]


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> Host:
    """A site with a second data set, by this name and with these keys changed.

    The first ``shared`` of its rows are the first data set's.
    """

    def resident(alias: str = "other", *, shared: int = 0, **keys: Any) -> SiteHost:
        own = tiny.rows(300, seed=1)[240 + shared :]
        other = tiny.write_csv(tmp_path / "other.csv", tiny.rows()[:shared] + own)
        second = {"source": str(other), "label": "label", "labels": ["no", "yes"]} | keys
        path = write_site(tmp_path / "home", tiny_folder, coordinator.identity, data={alias: second})
        return SiteHost(path.parent, read_site_file(path), planner=plan_here)

    return resident


def ask(resident: SiteHost, coordinator: Coordinator, envelope: bytes) -> Reply:
    public = coordinator.identity.public
    opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
    return Reply.FromString(resident.answer(opened))


def mixing(manifest: Manifest, folder: Path, *, alias: str = "other") -> Manifest:
    source = {"alias": alias, "source": "/nowhere.csv", "share": 0.25}
    return replace(manifest, job=tiny.job(folder, data={"mix": [source]}))


@pytest.mark.parametrize(
    ("named", "keys", "words"),
    [
        ("records", {}, "data.mix: alias='other': this site knows no data by that name"),
        ("other", {"labels": ["yes", "no"]}, "the labels differ: expected yes, no"),
    ],
)
def test_a_source_that_a_site_has_not_is_refused(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path, named: str, keys: Any, words: str
) -> None:
    resident = make(named, **keys)
    reply = ask(resident, coordinator, coordinator.join(mixing(world.manifest("run"), tiny_folder)))
    assert words in reply.refused.reason


def test_a_mix_is_not_called_as_other_data_are(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make()
    manifest = mixing(world.manifest("run"), tiny_folder, alias="data2")
    resident._data |= {"data2": resident._data["data"], "data + data2": resident._data["data"]}
    reply = ask(resident, coordinator, coordinator.join(manifest))
    assert "this site has other data called 'data + data2'" in reply.refused.reason


def test_a_round_draws_each_source_and_is_charged_to_all_examples_of_both(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    resident = make()
    manifest = mixing(world.manifest("run"), tiny_folder)
    assert ask(resident, coordinator, coordinator.join(manifest)).HasField("joined")
    session = resident._site._session
    assert session is not None
    # Of a batch of 16, 12 of the site's 240 and 4 of its 60.
    assert session.training == MixedPlan(
        **{name: getattr(session.plan, name) for name in ("clipping_norm", "mechanism", "steps", "delta")},
        sampling_rate=4 / 60,
        sources=(Source(examples=240, rate=12 / 240), Source(examples=60, rate=4 / 60)),
    )
    assert session.plan.sampling_rate == 4 / 60
    assert ask(resident, coordinator, coordinator.train(manifest, world)).HasField("trained")
    home = resident._home.path
    events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
    (registered,) = [event for event in events if isinstance(event, Registered)]
    rows = {text for text, *_ in tiny.rows()} | {text for text, *_ in tiny.rows(300, seed=1)[240:]}
    assert registered.examples == len(rows)
    assert len(charges(home)) == 1
    assert next(iter(resident._site.own.spent()))[0] == "data + other"


def test_who_stands_in_two_sources_is_an_example_of_the_first(
    make: Host, world: World, coordinator: Coordinator, tiny_folder: Path
) -> None:
    """Else a step could draw it twice, for one charge; counts are as public as they were."""
    resident = make(shared=20)
    manifest = mixing(world.manifest("run"), tiny_folder)
    assert ask(resident, coordinator, coordinator.join(manifest)).HasField("joined")
    session = resident._site._session
    assert session is not None
    assert session.materials.parts == (240, 60)
    sizes = session.materials.examples.sizes
    assert (sizes[240:260] == 0).all()
    assert (sizes[260:] > 0).all()
