"""What an actor makes of the sites that it is given, in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray")

from client.session import plan_training
from privacy.mechanisms.rng import keyed_entropy
from protocol.messages import confide_pb2 as pb
from simulation import ray_actor
from simulation.ray_actor import Assignment, Equipment, TrainingActor
from simulation.simulated_federation import World
from tests import tiny
from tests.tasks.test_tabular_trees import make_job


@pytest.fixture
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, seeds={"noise": 3}))


def equipment(world: World, **changes: object) -> Equipment:
    return Equipment(
        **{
            "job": world.job.model_dump_json(),
            "labels": world.labels,
            "model_digest": world.adapted.model_digest,
            "layout_digest": world.adapted.layout.digest,
            "rows": None,
            "kept_bytes": 1 << 20,
            **changes,
        }
    )


def answers(
    world: World, monkeypatch: pytest.MonkeyPatch, *, longest: float = 60.0, **changes: object
) -> list[np.ndarray | bytes]:
    """What an actor answers of round 2 of all sites; the object store is this process."""
    monkeypatch.setattr(ray_actor, "ray", SimpleNamespace(get=lambda value: value))
    actor = TrainingActor(equipment(world, **changes))
    assert actor.load() is None
    asked = [
        Assignment(
            site=site,
            adapter=world.initial_adapter,
            examples=world.examples(site),
            plan=plan_training(world.job, len(world.examples(site))),
            training=world.job.training,
            hidden=False,
            longest=longest,
        )
        for site in world.site_names
    ]
    first = actor.train(asked, 2)
    for once, again in zip(first, actor.train(asked, 2), strict=True):  # from what it kept
        assert np.array_equal(once, again)
    return first


def test_an_actor_takes_a_sites_own_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(world, monkeypatch)
    for site, update in zip(world.site_names, found, strict=True):
        examples = world.examples(site)
        alone = world.trainer.train(
            world.initial_adapter,
            examples,
            training=world.job.training,
            plan=plan_training(world.job, len(examples)),
            round_number=2,
            entropy=keyed_entropy(3, site),
            activations=None,
        )
        # Activations are kept there and not here: float32's rounding, where other noise would be all of it.
        np.testing.assert_allclose(update, alone, atol=1e-3 * np.abs(alone).max())


def test_sites_share_batches_where_that_is_faster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, together = (answers(world, monkeypatch, rows=rows) for rows in (None, 6))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-3 * np.abs(one).max())


@pytest.mark.parametrize("rows", [None, 6])
def test_a_site_that_fails_refuses_as_it_does_elsewhere(
    world: World, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    for site, answer in zip(
        world.site_names, answers(world, monkeypatch, longest=0.0, rows=rows), strict=True
    ):
        reply = pb.Reply.FromString(answer)
        assert reply.site == site
        assert "rules.longest_round" in reply.refused.reason


@pytest.mark.parametrize("differs", ["model_digest", "layout_digest"])
def test_an_actor_with_another_model_says_so(world: World, differs: str) -> None:
    reason = TrainingActor(equipment(world, **{differs: "0" * 64})).load()
    assert reason == (
        f"model.source={world.job.model.source}: another model than the coordinator's; use the same files "
        "and the same versions of the libraries on all machines"
    )


def test_an_actor_is_sent_the_trees_that_its_machine_lacks(tmp_path: Path) -> None:
    there = World(make_job(tmp_path))
    (tmp_path / "model.txt").unlink()
    assert "data.trees" in (TrainingActor(equipment(there)).load() or "")
    assert TrainingActor(equipment(there, files=there.adapted.base.files)).load() is None


def test_an_actor_without_the_model_says_so(world: World, tmp_path: Path) -> None:
    model = world.job.model.model_copy(update={"source": str(tmp_path / "none")})
    elsewhere = world.job.model_copy(update={"model": model})
    reason = TrainingActor(equipment(world, job=elsewhere.model_dump_json())).load()
    assert str(tmp_path / "none") in (reason or "")
