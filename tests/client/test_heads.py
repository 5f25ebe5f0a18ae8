"""A request names an entry of the site's ledger: a site whose ledger has none such answers nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.site import Site
from privacy.errors import LedgerError
from privacy.ledger.ledger import Ledger
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World
from tests import tiny
from tests.client.masked_sites import MaskedSites
from tests.client.sites import charges, join
from tests.privacy.ledgers import IDENTITY, digests

CANNOT = "the site cannot use its ledger; its own log says why"


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, metrics={"epsilon": 1.0}))


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    return world.site("site-1", home=tmp_path / "site-1")


def train(site: Site, manifest: Manifest, world: World, number: int, head: str = "") -> Reply:
    request = pb.Train(
        manifest_digest=manifest.digest, round=number, adapter=to_bytes(world.initial_adapter)
    )
    return asked(site, Request(train=request, head=bytes.fromhex(head)))


def evaluate(site: Site, manifest: Manifest, world: World, head: str = "") -> Reply:
    request = pb.Evaluate(manifest_digest=manifest.digest, adapter=to_bytes(world.initial_adapter))
    return asked(site, Request(evaluate=request, head=bytes.fromhex(head)))


def asked(site: Site, request: Request) -> Reply:
    return Reply.FromString(site.answer(request.SerializeToString()))


def head_of(reply: Reply) -> str:
    inner = getattr(reply, str(reply.WhichOneof("kind")))
    return str(json.loads(inner.receipt.content)["head"])


def test_an_entry_that_is_there(world: World, site: Site) -> None:
    """The last one or an earlier one: what a coordinator was not told of in time has no receipt there."""
    manifest = world.manifest("run")
    join(site, manifest)
    first = head_of(train(site, manifest, world, 1))
    second = head_of(train(site, manifest, world, 2, first))
    assert train(site, manifest, world, 3, first).HasField("trained")
    assert evaluate(site, manifest, world, second).HasField("evaluated")


def test_it_is_there_for_another_process_too(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    before = world.site("site-1", home=tmp_path)
    join(before, manifest)
    first = head_of(train(before, manifest, world, 1))
    after = world.site("site-1", home=tmp_path)
    second = head_of(train(after, manifest, world, 2, first))
    assert train(before, manifest, world, 3, second).HasField("trained")  # what the other one wrote


@pytest.mark.parametrize("head", ["00" * 32, "ab" * 32, "ab", "ab" * 31, "ab" * 100_000])
def test_an_entry_that_is_not_there(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, head: str
) -> None:
    """Nothing is charged or computed, and the coordinator reads what it reads of any ledger."""
    site = world.site("site-1", home=tmp_path)
    manifest = world.manifest("run")
    join(site, manifest)
    train(site, manifest, world, 1)
    ledger = (tmp_path / "ledger.head").read_bytes()
    refused = [train(site, manifest, world, 2, head), evaluate(site, manifest, world, head)]
    assert [reply.refused.reason for reply in refused] == [CANNOT] * 2
    assert not any(reply.refused.budget_spent or reply.refused.lost for reply in refused)
    assert [charge.round for charge in charges(tmp_path)] == [1]
    assert (tmp_path / "ledger.head").read_bytes() == ledger
    assert "an older copy of the site's home was put back" in caplog.text
    assert len(caplog.text) < 5000
    # And it goes on as soon as it is asked rightly.
    assert train(site, manifest, world, 2).HasField("trained")


def test_entries_of_other_sites_are_not_there(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    one, two = (world.site(name, home=tmp_path / name) for name in ("site-1", "site-2"))
    for site in (one, two):
        join(site, manifest)
    theirs = head_of(train(two, manifest, world, 1))
    assert train(one, manifest, world, 1, theirs).refused.reason == CANNOT


def test_without_noise_too(tiny_folder: Path, tmp_path: Path) -> None:
    world = World(tiny.job(tiny_folder, privacy={"mechanism": "none"}))
    manifest = world.manifest("run")
    site = world.site("site-1", home=tmp_path)
    join(site, manifest)
    head = head_of(train(site, manifest, world, 1))
    assert train(site, manifest, world, 2, "ab" * 32).refused.reason == CANNOT
    assert train(site, manifest, world, 2, head).HasField("trained")


def test_no_step_of_a_sum_is_answered_from_an_older_home(tiny_folder: Path, tmp_path: Path) -> None:
    """Put back between training and uncovering, a site would confirm and reveal what it has forgotten."""
    world = World(tiny.job(tiny_folder, aggregation={"kind": "masks"}, federation={"sites": 3}))
    sites = MaskedSites(world, tmp_path)
    roster = sites.roster()
    victim, *_ = cohorts = sites.deal(roster)
    shutil.copytree(tmp_path / victim, tmp_path / "copy")
    heads = {
        name: head_of(asked(sites.sites[name], Request(train=sites.train_request(cohort))))
        for name, cohort in cohorts.items()
    }
    shutil.rmtree(tmp_path / victim)
    shutil.copytree(tmp_path / "copy", tmp_path / victim)
    sites.restart(victim)
    digest, survivors = sites.manifest.digest, sorted(cohorts)
    steps: dict[str, Any] = {
        "deal": pb.Deal(manifest_digest=digest, roster=pb.Roster(number=2)),
        "confirm": pb.Confirm(manifest_digest=digest, number=1, survivors=survivors),
        "unmask": pb.Unmask(manifest_digest=digest, number=1, survivors=survivors),
    }
    for kind, step in steps.items():
        head = bytes.fromhex(heads[victim])
        reply = asked(sites.sites[victim], Request(head=head, **{kind: step}))
        assert reply.refused.reason == CANNOT, kind


def test_a_ledger_knows_its_entries(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, site="north", identity=IDENTITY, epsilon=3.0, delta=1e-5)
    begun = ledger_head(tmp_path)
    ledger.register(digests(range(10)))
    head = ledger_head(tmp_path)
    for known in (begun, head):
        ledger.check_holds(known)
    for other in (head.upper(), head[:-1], "", "0" * 64):
        with pytest.raises(LedgerError, match="an older copy"):
            ledger.check_holds(other)


def ledger_head(home: Path) -> str:
    return str(json.loads((home / "ledger.head").read_text())["hash"])
