"""Several devices in one step: the update of one device, in parts, and an end in a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import client.training.devices
from client.training.adaptive_norm import AdaptiveNorm
from client.training.devices import SeveralDevices
from client.training.optimizer import Clipping
from client.training.recipe import Recipe
from client.training.step_part import PartSum
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError, RunError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import NoiseSource, keyed_entropy
from simulation.simulated_federation import World
from tasks.model.frozen_prefix import Activations
from tests import children, tiny
from tests.client.device_threads import Thread, begin_in_threads

PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=0.5),
    clipping_norm=0.3,
    sampling_rate=0.4,
    steps=2,
    delta=1e-5,
)
KEYED = keyed_entropy(3, "site-1")


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Thread]:
    """No processes are begun: what they would do is done in threads, which are these."""
    return begin_in_threads(monkeypatch)


@contextmanager
def several(world: World, *others: str) -> Iterator[Trainer]:
    """The world's trainer, with other devices."""
    recipe = Recipe(job=world.job, local=world.job, labels=world.labels, site="site-1")
    devices = SeveralDevices(recipe, others, adapted=world.adapted)
    try:
        yield Trainer(world.trainer.gradients, devices)
    finally:
        devices.end()


def train(
    world: World,
    trainer: Trainer,
    *,
    entropy: Any = KEYED,
    plan: SampledPlan = PLAN,
    kept: bool = False,
    adaptive: AdaptiveNorm | None = None,
) -> NDArray[np.float32]:
    examples = world.examples("site-1")
    activations = Activations(world.prefix, examples) if kept else None
    assert activations is None or activations.work
    return trainer.train(
        world.initial_adapter,
        examples,
        training=world.job.training,
        plan=plan,
        round_number=1,
        entropy=entropy,
        activations=activations,
        adaptive=adaptive,
    )


# What comes of it.


@pytest.mark.parametrize(("others", "kept"), [(1, False), (2, True)])
def test_the_update_is_that_of_one_device_bit_for_bit(
    world: World, in_threads: list[Thread], others: int, kept: bool
) -> None:
    """Sums are of integers, and noise is drawn once: with noise for each part it would be another."""
    alone = train(world, world.trainer, kept=kept)
    with several(world, *["cpu"] * others) as trainer:
        found = [train(world, trainer, kept=kept) for _ in range(2)]
    assert len(in_threads) == others  # the second round found them
    assert np.abs(alone).max() > 1e-3
    assert np.array_equal(found[0], alone)
    assert np.array_equal(found[1], alone)


def test_an_update_is_the_same_where_frozen_layers_wait_in_main_memory(
    world: World, tiny_folder: Path
) -> None:
    waiting = World(tiny.job(tiny_folder, device={"offload": True}))
    assert waiting.adapted.recomputed_for == "device.offload"
    assert np.array_equal(train(waiting, waiting.trainer), train(world, world.trainer))


def test_nobody_drawn_is_a_step_of_noise_alone(world: World, in_threads: list[Thread]) -> None:
    nobody = replace(PLAN, sampling_rate=1e-9)
    alone = train(world, world.trainer, plan=nobody)
    with several(world, "cpu") as trainer:
        assert np.array_equal(train(world, trainer, plan=nobody), alone)
    assert alone.any()


def test_a_norm_that_moves_is_that_of_all_devices_examples(world: World, in_threads: list[Thread]) -> None:
    plan, norm = replace(PLAN, clipping_norm=1.0), AdaptiveNorm(quantile=0.5, value=0.3)
    alone = train(world, world.trainer, plan=plan, adaptive=norm)
    with several(world, "cpu") as trainer:
        assert np.array_equal(train(world, trainer, plan=plan, adaptive=norm), alone)
    assert alone[-1] == world.job.training.local_steps
    assert alone[-2] != np.float32(0.3)


def test_an_example_is_computed_by_one_device_whoever_else_is_drawn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what it adds is a function of it alone, where devices round differently."""
    sent: dict[int, list[int]] = {}
    seeds: list[int] = []

    class Written:
        alive = True

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def send(self, part: Any) -> None:
            seeds.append(part.seed)
            sent[self.rank] = [int(local) * 3 + self.rank for local in part.indices]

        def end(self) -> None:
            pass

    places: dict[int, int] = {}
    with several(world, "cpu", "cpu") as trainer:
        trainer.devices._processes = [Written(1), Written(2)]
        for seed in range(8):
            drawn = np.flatnonzero(np.random.default_rng(seed).random(40) < 0.4)
            with trainer.devices.share(
                drawn,
                round_number=1,
                training=world.job.training,
                clipping=Clipping(bound=1.0, norm=2, steps=2.0**40),
                dropout=KEYED(1, seed, "dropout"),
            ) as (own, _):
                parts = {0: own.tolist(), **sent}
            assert sorted(index for part in parts.values() for index in part) == drawn.tolist()
            for rank, indices in parts.items():
                for index in indices:
                    assert places.setdefault(index, rank) == rank
    assert set(places.values()) == {0, 1, 2}
    assert len(set(seeds)) == 16  # no two drop the same at the same places


# What ends it.


def noiseless(round_number: int, step: int, purpose: Any) -> NoiseSource:
    """Randomness in which noise for gradients is a mistake."""
    source = KEYED(round_number, step, purpose)
    if purpose == "gradients":
        source.discrete_gaussian = lambda *_arguments, **_options: pytest.fail("noise was drawn")
    return source


def test_a_device_that_is_lost_in_a_step_ends_it_before_there_is_noise(
    world: World, in_threads: list[Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train(world, world.trainer)
    with several(world, "cpu") as trainer:
        trainer.devices.ready(world.examples("site-1"))
        batches = trainer.batches

        def lose(*arguments: Any) -> Any:
            in_threads[0].kill()
            return batches(*arguments)

        with monkeypatch.context() as patch:
            # Threads have trainers of their own: this is called here, in the middle of the step.
            patch.setattr(trainer, "batches", lose)
            patch.setattr(client.training.devices._Process, "receive", _nothing_came)
            with pytest.raises(RunError) as raised:
                train(world, trainer, entropy=noiseless)
        assert str(raised.value) == (
            "one of the site's processes on its devices ended: no step is taken without it; the site's "
            "own log says more"
        )
        # The next round begins another in its place, and is what it would have been.
        assert np.array_equal(train(world, trainer), alone)
    assert len(in_threads) == 2


def _nothing_came(process: Any) -> Any:
    """As ``receive`` finds it when a process is killed before it answers."""
    process._answers.read()
    return _RECEIVE(process)


_RECEIVE = client.training.devices._Process.receive


def test_what_fails_here_leaves_no_answer_for_the_next_step(
    world: World, in_threads: list[Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train(world, world.trainer)
    with several(world, "cpu") as trainer:
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "batches", lambda *_: (_ for _ in ()).throw(PrivacyUnitError("no")))
            with pytest.raises(PrivacyUnitError, match="no"):
                train(world, trainer, entropy=noiseless)
        assert np.array_equal(train(world, trainer), alone)
    assert len(in_threads) == 2


def test_another_model_on_another_device_is_refused(
    world: World, in_threads: list[Thread], tmp_path: Path
) -> None:
    other = tiny.write_model(tmp_path / "other", fillers=3)
    there = world.job.model.model_copy(update={"source": str(other)})
    local = world.job.model_copy(update={"model": there})
    recipe = Recipe(job=world.job, local=local, labels=world.labels, site="site-1")
    devices = SeveralDevices(recipe, ["cpu"], adapted=world.adapted)
    with pytest.raises(RunError, match="on cpu has loaded another model than this one"):
        devices.ready(world.examples("site-1"))
    assert in_threads[0].poll() is not None


def test_parts_that_were_clipped_otherwise_are_not_added() -> None:
    gradients = [torch.ones(2, 3), torch.ones(2, 1)]
    clipping = Clipping(bound=0.5, norm=2, steps=2.0**40)
    whole = clipping.of(gradients)
    sent = PartSum.of(whole)
    back = sent.clipped_sum(clipping, [torch.zeros(3), torch.zeros(1)])
    assert all(torch.equal(a, b) for a, b in zip(back.tensors, whole.tensors, strict=True))
    assert (back.zeroed, back.within) == (whole.zeroed, whole.within) == (0, -2)
    other = replace(clipping, bound=0.25).of(gradients)
    with pytest.raises(PrivacyUnitError, match="expected sums clipped alike"):
        whole.joined(other)


# With processes.


@pytest.mark.process
def test_processes_make_the_same_update_and_one_that_is_killed_is_told(world: World) -> None:
    alone = train(world, world.trainer)
    with several(world, "cpu") as trainer:
        assert np.array_equal(train(world, trainer), alone)
        os.kill(trainer.devices._processes[0]._process.pid, signal.SIGKILL)
        with pytest.raises(RunError, match=r"processes on its devices ended: no step is taken without"):
            trainer.devices._sums(Clipping(bound=0.3, norm=2, steps=2.0**40))
        assert np.array_equal(train(world, trainer), alone)


PARENT = """
import sys
from pathlib import Path
from client.training.devices import SeveralDevices
from client.training.recipe import Recipe
from simulation.simulated_federation import World
from tests import tiny
world = World(tiny.job(Path(sys.argv[1])))
recipe = Recipe(job=world.job, local=world.job, labels=world.labels, site="site-1")
devices = SeveralDevices(recipe, ["cpu"], adapted=world.adapted)
devices.ready(world.examples("site-1"))
print(devices._processes[0]._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_processes_end_with_an_agent_that_is_killed(tiny_folder: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tiny_folder)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with children.start(command, **options) as process:
        pid = int(process.stdout.readline())
        assert not children.gone(pid)
        process.kill()
    children.until(lambda: children.gone(pid))
