"""A site whose clipping norm moves: what it keeps, what it is charged, and what it does not go with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.custody.home import Home
from client.planning import PlanningProcess, plan_here
from client.session import plan_training
from client.site import Site
from privacy.errors import JobError, UserError
from protocol.job.manifest import Manifest
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.attack.empirical_audit import check_canaries_fit
from simulation.booked_homes import memory_in
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges, epsilon, join, train

MOVES = {"clipping_quantile": 0.5, "clipping_norm": 0.01}
SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, privacy=MOVES))


def joined(world: World, home: Path) -> tuple[Site, Manifest]:
    site, manifest = world.site("site-1", home=home), world.manifest("run")
    join(site, manifest)
    return site, manifest


def kept(world: World, home: Path, before: int) -> list[float]:
    memory = Home(home).memory(world.manifest("run"))
    return [float(number) for number in memory.before(before).get("norm", ())]


# What is refused.


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"privacy": {"mechanism": "laplace", "epsilon": 100.0}}, "lengths in L1"),
        ({"privacy": {"unit": "site", "mechanism": "skellam"}}, 'none with privacy.unit="site"'),
        ({"privacy": {"noise_correlation": "auto"}, "strategy": {"name": "ffa"}}, "another norm than the"),
        ({"privacy": {"clipping_quantile": 1.0}}, "less than or equal to 0.99"),
        ({"privacy": {"clipping_quantile": 0.0}}, "greater than or equal to 0.01"),
    ],
)
def test_a_job_that_cannot_count_is_refused_when_it_is_read(
    tiny_folder: Path, sections: dict[str, Any], reason: str
) -> None:
    privacy = {"clipping_quantile": 0.5} | sections["privacy"]
    with pytest.raises(JobError, match=r"privacy\.clipping_quantile") as refused:
        tiny.job(tiny_folder, **sections | {"privacy": privacy})
    assert reason in str(refused.value)


# What it is charged.


def test_it_is_planned_and_charged_as_a_fixed_norm_of_one(world: World, tiny_folder: Path) -> None:
    fixed = tiny.job(tiny_folder)
    assert plan_training(world.job, 64) == plan_training(fixed, 64)


@pytest.mark.process
def test_a_plan_in_clipping_norms_is_the_one_that_was_asked_for(world: World) -> None:
    manifest = world.manifest("run")
    planner = PlanningProcess(seconds=60, mib=4096)
    assert planner(manifest, 64, 100, 3) == plan_here(manifest, 64, 100, 3)


def test_all_its_steps_cost_what_was_planned(world: World, tmp_path: Path) -> None:
    site, manifest = joined(world, tmp_path)
    replies = [train(site, manifest, world, number) for number in (1, 2, 3)]
    told = [epsilon(reply) for reply in replies]
    assert told == sorted(told)
    assert 7.5 < told[-1] <= 8.0
    assert [released.taken for released in charges(tmp_path)] == [2, 4, 6]
    assert {json.loads(r.trained.receipt.content)["plan"]["clipping_norm"] for r in replies} == {1.0}


# What it keeps.


def test_the_norm_goes_on_where_the_last_round_left_it(world: World, tmp_path: Path) -> None:
    site, manifest = joined(world, tmp_path)
    assert kept(world, tmp_path, 1) == []
    found = []
    for number in (1, 2, 3):
        train(site, manifest, world, number)
        found.append(kept(world, tmp_path, number + 1))
    assert [steps for _, steps in found] == [2, 4, 6]
    assert len({0.01, *(value for value, _ in found)}) == 4
    # Another process goes on from there.
    assert kept(world, tmp_path, 3) == found[1]


def test_a_round_that_is_asked_again_begins_with_the_norm_that_it_began_with(
    world: World, tmp_path: Path
) -> None:
    site, manifest = joined(world, tmp_path)
    train(site, manifest, world, 1)
    first = kept(world, tmp_path, 2)
    train(site, manifest, world, 2)
    train(site, manifest, world, 2)
    assert kept(world, tmp_path, 2) == first
    assert kept(world, tmp_path, 3)[1] == 4
    # Both were charged.
    assert len(charges(tmp_path)) == 3


# Whole runs.


@pytest.mark.parametrize("kind", ["none", "masks"])
@pytest.mark.exhaustive(but=1)
def test_a_run_moves_the_norms_and_passes_its_audit(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    job = tiny.job(tiny_folder, privacy=MOVES, aggregation={"kind": kind}, training={"rounds": 2})
    run = simulate(job, runs=tmp_path)
    folder = RunFolder.open(run.folder)
    assert audit_run(folder).rounds == 2
    norms = [
        memory_in(folder.path / "sites", site, folder.manifest).newest()["norm"].tolist() for site in SITES
    ]
    assert [steps for _, steps in norms] == [4] * 3
    assert not {value for value, _ in norms} & {0.01}


def test_a_keyed_run_is_the_same_in_units_a_thousand_times_as_large(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Without noise, a norm far above all gradients makes steps of their sum over it."""
    updates = []
    for norm, rate in ((1e4, 1.0), (2e4, 2.0)):
        job = tiny.job(
            tiny_folder,
            privacy={"mechanism": "none", "clipping_quantile": 0.99, "clipping_norm": norm},
            training={"rounds": 1, "local_steps": 1, "learning_rate": rate * 1e3},
            strategy={"name": "ffa"},
            seeds={"noise": 3},
        )
        folder = RunFolder.open(simulate(job, runs=tmp_path, name=f"run-{norm:g}").folder)
        layout = World(job).adapted.layout
        updates.append(folder.load_adapter(1, layout) - folder.load_adapter(0, layout))
    assert np.abs(updates[0]).max() > 0
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-3, atol=1e-6)


def test_the_empirical_audit_says_why_it_does_not_attack_such_a_job(world: World) -> None:
    with pytest.raises(UserError, match=r"privacy\.clipping_quantile: expected none: a canary"):
        check_canaries_fit(world.job)
