"""Whole runs of a chat model that is rewarded for what it answers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from confide.quantized_view import held_out_of
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import UserError
from privacy.mechanisms.mechanism import Mechanism
from runs.run_folder import RunFolder
from simulation.attack.membership_attack import attack_membership
from simulation.forecast.cost import estimate_effort
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests.tasks.judged import tiny_job


def test_a_run_under_masks_tells_rewards_and_distance(tmp_path: Path) -> None:
    training = {"rounds": 1, "local_steps": 1, "batch_size": 4, "physical_batch_size": 4}
    job = tiny_job(
        tmp_path,
        training=training,
        aggregation={"kind": "masks"},
        federation={"sites": 3},
        data={"limit": 40},
    )
    run = simulate(job, runs=tmp_path / "runs")
    assert set(run.epsilon) == {"site-1", "site-2", "site-3"}
    facts = RunFolder.open(run.folder).facts
    assert facts["measures_before"]["distance"] == pytest.approx(0.0, abs=1e-4)
    assert run.measures["distance"] > facts["measures_before"]["distance"]
    assert 0.0 < run.measures["reward"] < 1.0
    assert run.measures["kept"] == 1.0
    assert "mean reward" in run.report.read_text()
    # A whole model in the adapted one's place has nothing to be compared with.
    assert isinstance(held_out_of(RunFolder.open(run.folder)), str)


def test_a_plan_counts_what_is_written(tmp_path: Path) -> None:
    world = World(tiny_job(tmp_path, data={"limit": 30}))
    plan = SampledPlan(
        mechanism=Mechanism(name="gaussian", multiplier=1.0),
        clipping_norm=1.0,
        sampling_rate=0.5,
        steps=2,
        delta=1e-5,
    )
    ticks = itertools.count()
    found = estimate_effort(world, examples=[12, 12], plans=[plan, plan], clock=lambda: float(next(ticks)))
    assert found.seconds > 0
    assert found.disk_bytes == 0


def test_attacks_are_for_examples_that_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="writes a part of each anew in every round"):
        attack_membership(tiny_job(tmp_path))
