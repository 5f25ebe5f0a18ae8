"""A site takes part in the rounds that the public draw has it in, and in no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.identity import Identity
from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.roster import Cohort, Roster
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.sums.mask_messages import read_dealing, write_roster
from simulation.simulated_federation import World
from tests import tiny
from tests.client.masked_sites import MaskedSites

COORDINATOR = Identity.generate()


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    changes = {"federation": {"sites": 6, "cohort": 2}, "training": {"rounds": 2, "batch_size": 8}}
    return World(tiny.job(tiny_folder, **changes))


def ask(world: World, home: Path, name: str, *rounds: int) -> list[pb.Reply]:
    """What a site answers to joining and to the rounds."""
    manifest: Manifest = world.manifest("run")
    site = world.site(name, home=home / name, coordinator=COORDINATOR.public)
    signature = COORDINATOR.sign(MANIFEST_PURPOSE, manifest.content)
    join = pb.Request(join=pb.Join(manifest=manifest.content, signature=signature))
    adapter = to_bytes(world.initial_adapter)
    trains = [
        pb.Request(train=pb.Train(manifest_digest=manifest.digest, round=number, adapter=adapter))
        for number in rounds
    ]
    return [pb.Reply.FromString(site.answer(one.SerializeToString())) for one in (join, *trains)]


def test_a_site_refuses_a_round_that_it_is_not_drawn_for(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    name = min(manifest.drawn(2) or ())
    joined, first, second = ask(world, tmp_path, name, 1, 2)
    assert joined.HasField("joined")
    assert f"{name} is not drawn for round 1" in first.refused.reason
    # Nothing was charged for it: all of its plan is there for its own round.
    assert second.HasField("trained")


def test_a_site_that_is_never_drawn_does_not_join(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    never = next(site for site in manifest.sites if not manifest.rounds_of(site))
    (refused,) = ask(world, tmp_path, never)
    assert "is in no round of this run" in refused.refused.reason


def test_nobody_who_is_not_drawn_holds_shares(tiny_folder: Path, tmp_path: Path) -> None:
    """Who deals among some that collude, and says truly who masks, is refused and charges nothing."""
    changes = {
        "federation": {"sites": 6, "cohort": 4, "min_sites": 3},
        "training": {"rounds": 2, "batch_size": 8},
        "aggregation": {"kind": "masks", "threshold": 3},
        "metrics": {"epsilon": 1.0},
    }
    sites = MaskedSites(World(tiny.job(tiny_folder, **changes)), tmp_path)
    drawn = {number: sorted(sites.manifest.drawn(number) or ()) for number in (1, 2)}

    def deal(number: int, names: list[str], members: list[str]) -> dict[str, Cohort]:
        """What those drawn are asked after all ``members`` dealt for a sum, of which the others leave."""
        roster = Roster(
            rules=sites.rules, number=number, members=tuple(sites.members[name] for name in sorted(members))
        )
        message = pb.Deal(manifest_digest=sites.manifest.digest, roster=write_roster(roster))
        dealt = {name: read_dealing(name, sites.ask(name, "dealing", deal=message)) for name in names}
        return forward(roster, dealt)

    (name, *_) = names = drawn[1][:3]
    stranger = next(other for other in sites.manifest.sites if other not in drawn[1])
    cohort = deal(1, names, [*names, stranger])[name]
    refused = sites.ask(name, "refused", train=sites.train_request(cohort, number=1, round_number=1))
    assert f"'{stranger}' would be in the sum of round 1 and not drawn for it" in refused.reason
    cohort = deal(2, names, names)[name]
    trained = sites.ask(name, "trained", train=sites.train_request(cohort, number=2, round_number=1))
    assert trained.receipt.ByteSize() > 0
    # Metrics are asked of the last round's.
    (name, *_) = names = drawn[2][:3]
    stranger = next(other for other in sites.manifest.sites if other not in drawn[2])
    cohort = deal(3, names, [*names, stranger])[name]
    refused = sites.ask(name, "refused", evaluate=sites.evaluate_request(cohort, number=3))
    assert f"'{stranger}' would be in the sum of round 3" in refused.reason
