"""A site whose custodian names the devices that it trains on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.agent.site_host
import client.training.devices
import tasks.model.adapted_model
from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.recipe import Recipe
from privacy.errors import PolicyFileError
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.device_threads import Thread, begin_in_threads
from tests.client.sites import charges


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Thread]:
    return begin_in_threads(monkeypatch)


class Asked:
    """A site on two devices, and its coordinator."""

    def __init__(self, home: Path, folder: Path, names: Any, **device: Any) -> None:
        self.coordinator = Coordinator()
        path = write_site(home, folder, self.coordinator.identity, device={"name": names} | device)
        self.home, self.host = path.parent, SiteHost(path.parent, read_site_file(path), planner=plan_here)

    def ask(self, envelope: bytes) -> Reply:
        public = self.coordinator.identity.public
        opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
        return Reply.FromString(self.host.answer(opened))


@contextmanager
def site(tmp_path: Path, folder: Path, names: Any, **device: Any) -> Iterator[Asked]:
    asked = Asked(tmp_path / "home", folder, names, **device)
    try:
        yield asked
    finally:
        asked.host.close()


def test_a_device_that_is_not_here_is_told_at_the_start(tmp_path: Path, tiny_folder: Path) -> None:
    with (
        pytest.raises(PolicyFileError, match=r"device\.name='cuda:99': this machine has no such device"),
        site(tmp_path, tiny_folder, ["cpu", "cuda:99"]),
    ):
        pass


def test_what_the_custodian_names_counts_and_not_the_job(
    tmp_path: Path, tiny_folder: Path, world: World
) -> None:
    manifest = World(tiny.job(tiny_folder, device={"name": "auto"})).manifest("run")
    with site(tmp_path, tiny_folder, "cpu") as asked:
        elsewhere = manifest.job.device.model_copy(update={"name": "cuda:99"})
        object.__setattr__(manifest, "job", manifest.job.model_copy(update={"device": elsewhere}))
        assert asked.ask(asked.coordinator.join(manifest)).HasField("joined")
        assert asked.host._model.trainer.adapted.device.torch.type == "cpu"


def test_a_site_offloads_on_each_device_what_a_job_does_not(
    tmp_path: Path,
    tiny_folder: Path,
    world: World,
    in_threads: list[Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offloaded, offload = [], tasks.model.adapted_model.offload_layers
    monkeypatch.setattr(
        tasks.model.adapted_model,
        "offload_layers",
        lambda *args, **named: (offloaded.append(1), offload(*args, **named)),
    )
    manifest = world.manifest("run")
    with site(tmp_path, tiny_folder, ["cpu", "cpu"], offload=True) as asked:
        assert asked.ask(asked.coordinator.join(manifest)).HasField("joined")
        assert asked.host._model.trainer.adapted.recomputed_for == "device.offload"
        assert asked.ask(asked.coordinator.train(manifest, world)).HasField("trained")
    assert (len(in_threads), len(offloaded)) == (1, 2)


def test_a_round_on_two_devices_is_charged_as_one(
    tmp_path: Path, tiny_folder: Path, world: World, in_threads: list[Thread]
) -> None:
    manifest = world.manifest("run")
    with site(tmp_path, tiny_folder, ["cpu", "cpu"]) as asked:
        assert asked.ask(asked.coordinator.join(manifest)).HasField("joined")
        trained = asked.ask(asked.coordinator.train(manifest, world)).trained
        assert np.isfinite(np.frombuffer(trained.update, np.float32)).all()
        (charge,) = charges(asked.home)
        assert (charge.round, charge.steps, charge.taken) == (1, 2, 2)
        assert len(in_threads) == 1
    assert in_threads[0].poll() is not None  # the device is free again


def test_a_round_whose_process_is_lost_stays_charged_and_the_next_one_is_trained(
    tmp_path: Path,
    tiny_folder: Path,
    world: World,
    in_threads: list[Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = world.manifest("run")
    with site(tmp_path, tiny_folder, ["cpu", "cpu"]) as asked:
        asked.ask(asked.coordinator.join(manifest))
        with monkeypatch.context() as patch:
            patch.setattr(client.training.devices, "read_frame", lambda _file: None)
            in_threads[0].kill()
            in_threads[0].lives = True  # until it is asked, nobody knows
            refused = asked.ask(asked.coordinator.train(manifest, world)).refused
        assert "one of the site's processes on its devices ended: no step is taken" in refused.reason
        assert len(charges(asked.home)) == 1
        assert asked.ask(asked.coordinator.train(manifest, world)).HasField("trained")
        assert len(charges(asked.home)) == 2
    assert len(in_threads) == 2


def test_a_round_is_not_charged_where_a_device_cannot_be_used_again(
    tmp_path: Path,
    tiny_folder: Path,
    world: World,
    in_threads: list[Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = world.manifest("run")
    with site(tmp_path, tiny_folder, ["cpu", "cpu"]) as asked:
        asked.ask(asked.coordinator.join(manifest))
        in_threads[0].kill()
        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "make", _out_of_memory)
            refused = asked.ask(asked.coordinator.train(manifest, world)).refused
        assert "one of the site's processes on its devices ended: no step is taken" in refused.reason
        assert not charges(asked.home)


def _out_of_memory(_recipe: Recipe, _device: Any) -> Any:
    raise RuntimeError("out of memory")
