"""A site takes part in the rounds that the public draw has it in, and in no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.identity import Identity
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World
from tests import tiny

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
