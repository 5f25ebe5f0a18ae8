"""Whole runs of a chat model that is rewarded for what it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.quantized_view import held_out_of
from runs.run_folder import RunFolder
from simulation.simulate import simulate
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


@pytest.mark.exhaustive
def test_without_privacy_the_reward_rises(tmp_path: Path) -> None:
    job = tiny_job(
        tmp_path,
        privacy={"mechanism": "none", "clipping_norm": 0.02},
        seeds={"noise": 1},
        training={"rounds": 2, "learning_rate": 0.05},
        data={"limit": 120, "beta": 0.0},
    )
    run = simulate(job, runs=tmp_path / "runs")
    before = RunFolder.open(run.folder).facts["measures_before"]
    assert run.measures["reward"] > before["reward"] + 0.02
