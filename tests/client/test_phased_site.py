"""A site in a run of phases: each charge has its phase's rate, noise and tensors, whatever is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.planning import PlanningProcess, plan_here
from client.session import plan_training
from client.training.optimizer import PrivateOptimizer
from client.training.step import make_optimizer
from client.training.training import Trainer
from privacy.accounting.phased_plan import PhasedPlan
from privacy.errors import PrivacyUnitError
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import Manifest
from protocol.messages.vector import from_bytes
from simulation.simulated_federation import World
from tests.client.sites import charges, epsilon, join, train
from tests.protocol.job.test_phases import HEADS, WHOLE, phased

SHARES = HEADS | {"share": 0.2, "learning_rate": 4.0}, WHOLE | {"share": 0.8, "local_steps": 3}


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(phased(tiny_folder, *SHARES))


@pytest.fixture(scope="module")
def manifest(world: World) -> Manifest:
    return world.manifest("run")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of each training: its round, the steps, rate and learning rate, and the plan that its noise is by."""
    found: list[tuple[Any, ...]] = []
    whole = Trainer.train

    def watched(self: Trainer, *given: Any, **more: Any) -> Any:
        training, plan = more["training"], more["plan"]
        found.append((more["round_number"], training.local_steps, training.learning_rate, plan))
        return whole(self, *given, **more)

    monkeypatch.setattr(Trainer, "train", watched)
    return found


def test_each_round_has_its_phases_noise_and_is_charged_before(
    world: World, manifest: Manifest, tmp_path: Path, taken: list[tuple[Any, ...]]
) -> None:
    home = tmp_path / "site-1"
    site = world.site("site-1", home=home)
    join(site, manifest)
    plan = plan_training(world.job, world.sizes["site-1"])
    assert isinstance(plan, PhasedPlan)
    replies = [train(site, manifest, world, number) for number in range(1, 6)]
    assert [(number, steps, rate) for number, steps, rate, _ in taken] == [
        *((number, 2, 4.0) for number in (1, 2)),
        *((number, 3, 2.0) for number in (3, 4, 5)),
    ]
    heads, whole = plan.multipliers
    assert [used.mechanism.multiplier for *_, used in taken] == [heads, heads, whole, whole, whole]
    assert [one.taken for one in charges(home)] == [2, 4, 7, 10, 13]
    assert [epsilon(reply) for reply in replies] == [plan.epsilon_after(n) for n in (2, 4, 7, 10, 13)]
    audit_ledger(home / "ledger.db")


def test_a_head_phase_sends_the_head_alone(world: World, manifest: Manifest, tmp_path: Path) -> None:
    site = world.site("site-1", home=tmp_path / "site-1")
    join(site, manifest)
    layout = world.adapted.layout
    updates = [
        from_bytes(train(site, manifest, world, number).trained.update, size=layout.update_size)
        for number in (1, 3)
    ]
    head = sum(slot.size for slot in layout.slots if ".lora_" not in slot.name)
    assert [np.count_nonzero(update) for update in updates] == [head, layout.update_size]
    assert not updates[0][head:].any()


def test_a_round_that_is_asked_again_takes_later_steps_noise(
    world: World, manifest: Manifest, tmp_path: Path, taken: list[tuple[Any, ...]]
) -> None:
    """The count goes on into the next phase, whose steps are then the last phase's: none is used twice."""
    home = tmp_path / "site-1"
    plan = plan_training(world.job, world.sizes["site-1"])
    for number in (1, 2):
        site = world.site("site-1", home=home)  # another process each time
        join(site, manifest)
        assert train(site, manifest, world, number).HasField("trained")
    again = world.site("site-1", home=home)
    other = (world.initial_adapter + np.float32(0.01)).tobytes()
    assert train(again, manifest, world, 2, adapter=other).HasField("trained")
    assert [one.taken for one in charges(home)] == [2, 4, 6]
    assert isinstance(plan, PhasedPlan)
    assert [used.mechanism.multiplier for *_, used in taken] == [
        plan.multipliers[0],
        plan.multipliers[0],
        plan.multipliers[1],
    ]
    for number in (3, 4):
        assert train(again, manifest, world, number).HasField("trained")
    reply = train(again, manifest, world, 5)
    assert reply.HasField("refused")
    assert "planned for 13 steps" in str(reply)
    assert charges(home)[-1].taken == 12
    audit_ledger(home / "ledger.db")


def test_no_step_is_taken_by_the_plan_of_all_phases(world: World) -> None:
    plan = plan_training(world.job, world.sizes["site-1"])
    with pytest.raises(PrivacyUnitError, match="the plan of a round's steps"):
        make_optimizer(world.adapted, world.job.training, plan)
    assert isinstance(make_optimizer(world.adapted, world.job.training, plan.phases[0]), PrivateOptimizer)


def test_a_run_without_noise_draws_at_each_phases_rate(
    tiny_folder: Path, tmp_path: Path, taken: list[tuple[Any, ...]]
) -> None:
    job = phased(tiny_folder, HEADS | {"batch_size": 32}, WHOLE, privacy={"mechanism": "none"})
    world = World(job)
    site = world.site("site-1", home=tmp_path / "site-1")
    manifest = world.manifest("run")
    join(site, manifest)
    for number in (1, 3):
        assert train(site, manifest, world, number).HasField("trained")
    rates = [used.sampling_rate for *_, used in taken]
    assert rates == [size / world.sizes["site-1"] for size in (32, 16)]


@pytest.mark.process
def test_a_process_plans_phases_as_this_one_does(world: World, manifest: Manifest, tmp_path: Path) -> None:
    planner = PlanningProcess(seconds=60, mib=4096, kept=tmp_path / "plans.json")
    size = world.adapted.layout.update_size
    assert planner(manifest, 64, size, 5) == plan_here(manifest, 64, size, 5)
