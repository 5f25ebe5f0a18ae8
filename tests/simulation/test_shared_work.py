"""What simulated sites share: a plan a size, a check a model; and which of their homes are flushed."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.planning import plan_here
from privacy.errors import PlanError, PrivacyUnitError
from privacy.ledger.ledger_audit import audit_ledger
from simulation import shared_work
from simulation.shared_work import SharedCheck, SharedPlans
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, training={"rounds": 1}))


def test_sites_of_one_size_share_a_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def plan(manifest: Any, examples: int, update_size: int, rounds: int, *, near: float) -> Any:
        asked.append(examples)
        return plan_here(manifest, examples, update_size, rounds, near=near)

    monkeypatch.setattr(shared_work, "plan_here", plan)
    plans, manifest = SharedPlans(), world.manifest("run")
    found = [plans(manifest, examples, 10, 3) for examples in (60, 60, 61)]
    assert found[0] is found[1] != found[2]
    assert found[2] == plan_here(manifest, 61, 10, 3)
    other = replace(manifest, job=tiny.job(Path(manifest.job.data.source).parent, privacy={"epsilon": 4.0}))
    assert plans(other, 60, 10, 3).plan.mechanism.multiplier > found[0].plan.mechanism.multiplier
    assert asked == [60, 61, 60]
    for _ in range(2):
        with pytest.raises(PlanError, match="batch_size=16"):
            plans(manifest, 5, 10, 3)
    with pytest.raises(PlanError, match="batch_size=16"):
        plans(manifest, 0, 10, 3)  # of no size at all, beside planned ones


def test_sizes_are_planned_near_each_other_and_as_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[float] = []

    def plan(manifest: Any, examples: int, update_size: int, rounds: int, *, near: float) -> Any:
        begun.append(near)
        return plan_here(manifest, examples, update_size, rounds, near=near)

    monkeypatch.setattr(shared_work, "plan_here", plan)
    plans, manifest = SharedPlans(), world.manifest("run")
    sizes = (40, 200, 90, 140, 100, 30)
    found = [plans(manifest, examples, 10, 3) for examples in sizes]
    assert found == [plan_here(manifest, examples, 10, 3) for examples in sizes]
    multipliers = [each.training.mechanism.multiplier for each in found]
    assert begun[:2] == [1.0, multipliers[0]]
    # Between sizes, and beyond them, a line through the two nearest: closer than either of them.
    for place in (2, 3, 4, 5):
        known = multipliers[:place]
        off = abs(math.log(begun[place] / multipliers[place]))
        assert off < min(abs(math.log(each / multipliers[place])) for each in known)


def test_a_model_is_checked_until_it_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()

    def check(*_arguments: object) -> None:
        calls["check"] += 1
        if calls["check"] == 1:
            raise PrivacyUnitError("tokens are counted as examples")

    monkeypatch.setattr(shared_work, "check_privacy_unit", check)
    shared, asked = SharedCheck(), (world.trainer.gradients, world.adapted.probe())
    with pytest.raises(PrivacyUnitError):
        shared(*asked)
    for _ in range(3):
        shared(*asked)
    assert calls["check"] == 2


@pytest.mark.parametrize("kept", [True, False], ids=["homes of their own", "the run's homes"])
def test_homes_that_outlive_the_run_are_flushed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Others are lost in a power cut with their run, and its own records; the ledger is whole in either."""
    flushed = Counter[bool]()
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flushed["site-1" in os.readlink(f"/proc/self/fd/{descriptor}")] += 1
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    homes = tmp_path / "homes" if kept else None
    run = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path, homes=homes)
    assert (flushed[False] > 10) == kept
    assert (flushed[True] > 10) == kept
    assert audit_ledger(run.folder / "sites" / "site-1" / "ledger.db").entries
