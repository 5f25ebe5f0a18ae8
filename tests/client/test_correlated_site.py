"""A site whose noise is correlated: each index once, whatever is asked again or killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.correlated_steps import CorrelatedSteps
from client.custody.home import Home
from client.session import plan_training
from client.site import Site
from client.training.optimizer import PrivateOptimizer
from client.training.step import make_optimizer
from privacy.accounting.banded_plan import BandedPlan, make_banded_plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.banded_noise import BandedNoise
from privacy.mechanisms.rng import keyed_source
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.vector import to_bytes
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges, join, train

BANDED = {
    "strategy": {"name": "ffa"},
    "privacy": {"noise_correlation": "banded", "bands": 3},
    "training": {"rounds": 6, "decay": "linear"},
}


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, **BANDED))


@pytest.fixture(scope="module")
def manifest(world: World) -> Manifest:
    return world.manifest("run")


@pytest.fixture
def indices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every index whose noise was added to a sum, in the order that they were."""
    found: list[int] = []
    release = BandedNoise.release

    def watched(self: BandedNoise, clipped: Any, index: int) -> Any:
        found.append(index)
        return release(self, clipped, index)

    monkeypatch.setattr(BandedNoise, "release", watched)
    return found


def site_of(world: World, home: Path) -> Site:
    return world.site("site-1", home=home)


def test_a_round_that_is_asked_again_takes_the_next_indices(
    world: World, manifest: Manifest, tmp_path: Path, indices: list[int]
) -> None:
    home = tmp_path / "site-1"
    first = site_of(world, home)
    join(first, manifest)
    other = to_bytes(world.initial_adapter + np.float32(0.01))
    assert train(first, manifest, world, 1).HasField("trained")
    assert train(first, manifest, world, 1, adapter=other).HasField("trained")
    again = site_of(world, home)  # another process
    assert train(again, manifest, world, 2).HasField("trained")
    assert train(first, manifest, world, 3).HasField("trained")  # and the first one, beside it
    assert indices == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [one.taken for one in charges(home)] == [2, 4, 6, 8]
    audit_ledger(home / "ledger.db")


def test_a_site_that_lost_its_seed_leaves_the_run_uncharged(
    world: World, manifest: Manifest, tmp_path: Path, indices: list[int]
) -> None:
    home = tmp_path / "site-1"
    site = site_of(world, home)
    join(site, manifest)
    train(site, manifest, world, 1)
    (seed,) = (home / "local").glob("*.seed")
    seed.unlink()
    refused = train(site_of(world, home), manifest, world, 2).refused
    assert "the seed of this site's correlated noise is lost, and steps=2 of the run" in refused.reason
    assert len(charges(home)) == 1
    assert indices == [0, 1]


def test_the_seed_is_gone_after_the_last_step_and_when_a_run_is_closed(
    world: World, manifest: Manifest, tmp_path: Path
) -> None:
    site, home = site_of(world, tmp_path / "whole"), tmp_path / "whole"
    join(site, manifest)
    assert all(train(site, manifest, world, number).HasField("trained") for number in range(1, 7))
    assert not list((home / "local").iterdir())
    assert "planned for 12 steps" in train(site, manifest, world, 6).refused.reason
    short, home = site_of(world, tmp_path / "short"), tmp_path / "short"
    join(short, manifest)
    train(short, manifest, world, 1)
    assert len(list((home / "local").iterdir())) == 1
    Home(home).close_run(manifest.run)
    assert not list((home / "local").iterdir())


class Killed(BaseException):
    """No code of a site's catches it, as none catches a kill."""


def killed_at(patch: pytest.MonkeyPatch, place: int, ask: Callable[[], Reply]) -> tuple[bool, Reply | None]:
    """What ``ask`` gives, or None if it dies at its write of this number; whether it came so far."""
    left = place

    def deadly(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise Killed
            return whole(*args, **named)

        return call

    with patch.context() as inner:
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "rename"), (Path, "unlink")):
            inner.setattr(owner, name, deadly(getattr(owner, name)))
        try:
            return False, ask()
        except Killed:
            return True, None


def test_killed_at_every_write_no_index_is_used_twice(
    world: World, manifest: Manifest, tmp_path: Path, indices: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round has most writes: it makes the seed. Each try is killed one write later."""
    killed = place = 0
    while True:
        home = tmp_path / str(place)
        site = site_of(world, home)
        join(site, manifest)
        indices.clear()
        died, _ = killed_at(monkeypatch, place, lambda site=site: train(site, manifest, world, 1))
        for number in (1, 2):
            assert train(site_of(world, home), manifest, world, number).HasField("trained")
        assert len(set(indices)) == len(indices)
        assert max(indices) < charges(home)[-1].taken
        killed += died
        if not died:
            break
        place += 1
    assert killed >= 6  # the seed's file, its folder and its link, and the ledger's head


def test_a_simulation_keeps_its_promise_and_its_audit_agrees(tiny_folder: Path, tmp_path: Path) -> None:
    changes = BANDED | {"aggregation": {"kind": "masks"}, "training": {"rounds": 2}}
    run = simulate(tiny.job(tiny_folder, **changes), runs=tmp_path, compare=True)
    audit = audit_run(RunFolder(run.folder), [run.folder / "sites" / "site-1" / "ledger.db"])
    assert {(site.taken, site.planned) for site in audit.sites} == {(4, 4)}
    assert audit.sites[0].epsilon == pytest.approx(8.0, rel=0.01)
    # What it is compared with has no noise, and so none to correlate, or is one site with its own.
    compared = {
        name: RunFolder(run.folder / "compare" / name).manifest.job.privacy.correlated
        for name in ("without-privacy", "alone/site-1")
    }
    assert compared == {"without-privacy": False, "alone/site-1": True}


def last_adapter_noise(plan: SampledPlan, weights: np.ndarray, width: int) -> float:
    """The deviation of what steps without examples make of zero, each at its rate: noise alone."""
    weight = nn.Parameter(torch.zeros(width, dtype=torch.float64))
    optimizer = PrivateOptimizer(torch.optim.SGD([weight], lr=1.0), plan=plan, expected_batch_size=1)
    correlated = None
    if isinstance(plan, BandedPlan):
        noise = BandedNoise(bytes(32), coefficients=plan.coefficients, multiplier=plan.mechanism.multiplier)
        correlated = CorrelatedSteps(noise=noise, groups=np.zeros(0, np.int64), first=0)
    for step, rate in enumerate(weights):
        optimizer.source = keyed_source(0, "step", step)
        if correlated is not None:
            optimizer.correlated = correlated.release(step)
        optimizer.param_groups[0]["lr"] = rate
        weight.grad_sample = torch.zeros(0, width)
        optimizer.signal_skip_step(do_skip=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(weight.detach().std())


def test_measured_noise_is_the_plans_to_two_percent() -> None:
    """The demo's: 24 steps at falling rates, ε = 3, 8 bands. A deviation of n draws is off by 1/√2n."""
    weights = np.linspace(1.0, 0.0, 24, endpoint=False)
    wanted = {
        "weights": weights,
        "epsilon": 3.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "expected_batch_size": 256,
        "examples": 9164,
    }
    plans = [make_banded_plan(bands=bands, **wanted) for bands in (8, 1)]
    banded, plain = (last_adapter_noise(plan, weights, 20_000) for plan in plans)
    planned = plans[0].noise_of_sum(weights) / plans[1].noise_of_sum(weights)
    assert banded / plain == pytest.approx(planned, rel=0.02)
    assert planned < 0.65


def test_a_step_with_bands_has_an_index_or_is_refused(world: World) -> None:
    """Independent noise of this size would hide less than is accounted for."""
    plan = plan_training(world.job, 64)
    optimizer = make_optimizer(world.adapted, world.job.training, plan)
    optimizer.source = keyed_source(0, "x")
    for parameter in optimizer.params:
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
    with pytest.raises(PrivacyUnitError, match="no correlated noise for this step"):
        optimizer.step()
