"""A site compares with the adapter that a run began with: the coordinator's own, whenever it joins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.agent.site_host import SiteHost
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.recipe import Recipe
from protocol.job.strategy import State
from protocol.messages.confide_pb2 import Join, Reply, Request
from protocol.messages.envelope import COORDINATOR, open_envelope
from protocol.messages.vector import to_bytes
from runs.export import export_adapter
from simulation.simulated_federation import World
from simulation.simulated_run import reopen_world
from tasks.registry import compares_with_start
from tests import tiny_chat
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import ask, join, train

LAYER = {"layers_to_transform": [1]}
SMALL = {"rounds": 2, "local_steps": 1, "batch_size": 8, "physical_batch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("begun")


def job(folder: Path, place: Path | None, task: str = "preferences") -> Any:
    training = SMALL if place is None else SMALL | {"warm_start": str(place)}
    data = {"limit": 60} | ({"max_answer": 8} if task == "preferences" else {})
    return tiny_chat.job(folder, task, training=training, adapter=LAYER, data=data)


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """An adapter of which no number is zero, of a job on conversations."""
    world = World(job(folder, None, "instruction"))
    run = world.create_folder(folder / "instructed")
    run.save_state(0, world.adapted.layout, State(adapter=world.adapted.some_adapter(3)))
    export_adapter(run, folder / "exported")
    return folder / "exported"


@pytest.fixture(scope="module")
def world(folder: Path, exported: Path) -> World:
    return World(job(folder, exported))


def references(world: World, adapted: Any) -> torch.Tensor:
    """What a model compares the first examples of a site with."""
    batch = world.examples("site-1").batch(np.arange(4))
    adapted.peft.eval()
    return adapted.task.reference(adapted, batch)


# At the coordinator.


def test_a_run_begins_at_a_margin_of_nothing(world: World, tmp_path: Path) -> None:
    run = world.create_folder(tmp_path / "run")
    assert run.facts["measures_before"]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert run.facts["loss_before"] == pytest.approx(np.log(2), abs=1e-6)
    # What training began with is no other once the run is taken up again, and an adapter has moved.
    again = reopen_world(run)
    adapted = again.adapted
    adapted.load(adapted.some_adapter(9))
    torch.testing.assert_close(references(again, adapted), references(world, world.adapted))
    moved = again.workplace.evaluator.score(adapted.some_adapter(9))
    assert abs(moved.measures["margin"]) > 1e-3


def test_the_reference_is_not_the_base_model(world: World, folder: Path) -> None:
    plain = World(job(folder, None))
    apart = references(plain, plain.adapted) - references(world, world.adapted)
    assert float(apart.abs().max()) > 1e-3


def test_sites_are_sent_it_if_they_need_it(world: World, folder: Path, exported: Path) -> None:
    assert compares_with_start(world.job)
    assert not compares_with_start(job(folder, None))
    assert not compares_with_start(job(folder, exported, "instruction"))


# At a site.


def test_a_site_joins_with_the_very_adapter_and_no_other(world: World, tmp_path: Path) -> None:
    manifest, home = world.manifest("run"), tmp_path / "site-1"
    site, start = world.site("site-1", home=home), to_bytes(world.initial_adapter)
    for wrong in (b"", start[:-4], to_bytes(world.initial_adapter + np.float32(1))):
        refused = ask(site, join=Join(manifest=manifest.content, start=wrong)).refused
        assert "expected the adapter that the run began with" in refused.reason
    assert not any((home / "manifests").glob("*"))
    assert ask(site, join=Join(manifest=manifest.content, start=start)).HasField("joined")
    # A later process has it still; one whose file is gone asks to be told again, and is charged nothing.
    assert train(world.site("site-1", home=home), manifest, world).trained.update
    kept = Home(home).start_path(manifest)
    for spoil in (kept.unlink, lambda: kept.write_bytes(start[:-1])):
        spoil()
        lost = train(world.site("site-1", home=home), manifest, world, 2).refused
        assert lost.lost
        assert "send Join again" in lost.reason
        later = world.site("site-1", home=home)
        assert ask(later, join=Join(manifest=manifest.content, start=start)).HasField("joined")
    assert train(world.site("site-1", home=home), manifest, world, 2).trained.update


def test_runs_that_are_joined_and_charged_nothing_leave_one_adapter(world: World, tmp_path: Path) -> None:
    site, start = world.site("site-1", home=tmp_path / "site-1"), to_bytes(world.initial_adapter)
    for run in ("first", "second", "third"):
        manifest = replace(world.manifest("run"), run=run)
        assert ask(site, join=Join(manifest=manifest.content, start=start)).HasField("joined")
    path = Home(tmp_path / "site-1").start_path(manifest)
    assert list(path.parent.glob("*.start")) == [path]


def test_a_job_that_compares_with_nothing_takes_none(folder: Path, exported: Path, tmp_path: Path) -> None:
    world = World(job(folder, exported, "instruction"))
    manifest, home = world.manifest("run"), tmp_path / "site-1"
    assert join(world.site("site-1", home=home), manifest).HasField("joined")
    assert not Home(home).start_path(manifest).exists()


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def make(tmp_path: Path, folder: Path, coordinator: Coordinator) -> Callable[[], SiteHost]:
    def resident() -> SiteHost:
        path = write_site(
            tmp_path / "home",
            folder,
            coordinator.identity,
            data={
                "data": {
                    "source": str(folder / "preferences.jsonl"),
                    "task": "preferences",
                    "prompt": "prompt",
                }
            },
        )
        return SiteHost(path.parent, read_site_file(path), planner=plan_here)

    return resident


def told(resident: SiteHost, coordinator: Coordinator, world: World, manifest: Any) -> Reply:
    signature = coordinator.identity.sign("manifest", manifest.content)
    start = to_bytes(world.initial_adapter)
    sent = Request(join=Join(manifest=manifest.content, signature=signature, start=start))
    return answer(resident, coordinator, coordinator.seal(sent, run=manifest.run))


def answer(resident: SiteHost, coordinator: Coordinator, envelope: bytes) -> Reply:
    public = coordinator.identity.public
    opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
    return Reply.FromString(resident.answer(opened))


@pytest.mark.exhaustive
def test_a_real_site_compares_with_what_the_coordinator_does(
    make: Callable[[], SiteHost], coordinator: Coordinator, world: World, folder: Path, tmp_path: Path
) -> None:
    resident, manifest = make(), world.manifest("first")
    assert told(resident, coordinator, world, manifest).HasField("joined")
    assert answer(resident, coordinator, coordinator.train(manifest, world)).HasField("trained")
    model = resident._model
    assert model is not None
    expected = references(world, world.adapted)
    torch.testing.assert_close(references(world, model.trainer.adapted), expected)
    # The same job again needs no other model; one that began with another adapter does.
    assert told(resident, coordinator, world, replace(manifest, run="again")).HasField("joined")
    assert resident._model is model
    other = World(job(folder, None))
    run = other.create_folder(tmp_path / "other")
    run.save_state(0, other.adapted.layout, State(adapter=other.adapted.some_adapter(4)))
    export_adapter(run, tmp_path / "exported")
    second = World(job(folder, tmp_path / "exported"))
    assert told(resident, coordinator, second, second.manifest("second")).HasField("joined")
    assert resident._model is not None
    found = references(world, resident._model.trainer.adapted)
    torch.testing.assert_close(found, references(world, second.adapted))
    assert float((found - expected).abs().max()) > 1e-3


def test_what_computes_on_another_device_compares_with_it_too(world: World) -> None:
    recipe = Recipe(
        job=world.job,
        local=world.job,
        labels=(),
        site="site-1",
        start=to_bytes(world.initial_adapter),
    )
    made = recipe.make(world.adapted.device)
    torch.testing.assert_close(references(world, made), references(world, world.adapted))
