"""How many threads: those that were faster, and one where a run repeats bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from client.training import threads
from client.training.threads import choose_threads
from protocol.job.job import Job
from simulation.simulated_federation import World
from tests import tiny


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


def asking(folder: Path, **changes: Any) -> Job:
    job = tiny.job(folder, **changes)
    return job.model_copy(update={"device": job.device.model_copy(update={"threads": None})})


@pytest.mark.parametrize("faster", [1, 2])
def test_the_faster_number_is_kept(
    world: World, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, faster: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0 if torch.get_num_threads() == faster else 2.0
        return now[0]

    taken = choose_threads(world.trainer.gradients, asking(tiny_folder), clock=clock)
    assert taken == {faster: 1.0, 3 - faster: 2.0}
    assert torch.get_num_threads() == faster


def test_nothing_is_tried_where_the_job_decides(
    world: World, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda *_arguments: pytest.fail("it was tried"))
    torch.set_num_threads(2)
    for job in (tiny.job(tiny_folder), asking(tiny_folder, seeds={"noise": 1})):
        assert choose_threads(world.trainer.gradients, job) == {}
    assert torch.get_num_threads() == 2


def test_a_keyed_simulation_has_one_thread_whatever_the_machine_has(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1, 2})
    World(asking(tiny_folder, seeds={"noise": 1}))
    assert torch.get_num_threads() == 1


def test_a_model_that_fails_keeps_the_threads_that_there_were(world: World, tiny_folder: Path) -> None:
    def fail(_module: torch.nn.Module, _args: object) -> None:
        raise RuntimeError("it fails")

    torch.set_num_threads(2)
    adapted = world.trainer.gradients.adapted
    adapted.peft.eval()
    handle = adapted.peft.register_forward_pre_hook(fail)
    try:
        assert choose_threads(world.trainer.gradients, asking(tiny_folder)) == {}
    finally:
        handle.remove()
    assert torch.get_num_threads() == 2
    assert not adapted.peft.training
