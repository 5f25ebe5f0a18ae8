"""A site that trains on answers which another model judges, which it has where its custodian says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.devices import OneDevice
from protocol.job.job import Job
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests.client.agents import SITE, Coordinator, write_site
from tests.tasks.judged import tiny_job, write_judge


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_job(tmp_path_factory.mktemp("judged")))


def joined(home: Path, world: World, *, judge: str | None, **changes: Any) -> tuple[Reply, SiteHost]:
    """What a site says to the job, whose judge it has at this place."""
    job: Job = world.job
    table: Any = (job.data.model_extra or {})["reward"]
    folder = Path(table["source"]).parent
    models = {job.model.source: job.model.source} | ({} if judge is None else {table["source"]: judge})
    data = {"data": {"task": "rewards", "source": job.data.source, "prompt": "prompt"}}
    coordinator = Coordinator()
    path = write_site(home, folder, coordinator.identity, models=models, data=data, **changes)
    host = SiteHost(home, read_site_file(path), planner=plan_here)
    opened = open_envelope(
        coordinator.join(world.manifest("run")),
        public_key=coordinator.identity.public,
        sender=COORDINATOR,
        receiver=SITE,
    )
    return Reply.FromString(host.answer(opened)), host


def test_a_judge_is_loaded_from_where_the_custodian_has_it(tmp_path: Path, world: World) -> None:
    same = write_judge(tmp_path / "elsewhere")
    reply, host = joined(tmp_path / "home", world, judge=str(same), device={"name": ["cpu", "cpu"]})
    assert reply.HasField("joined"), reply
    assert host._model is not None
    # The model writes on one device, whatever the site has.
    assert isinstance(host._model.trainer.devices, OneDevice)
    host.close()


def test_one_that_the_custodian_did_not_name_is_refused_with_the_line(tmp_path: Path, world: World) -> None:
    reply, _ = joined(tmp_path / "home", world, judge=None)
    assert "data.reward.source=" in reply.refused.reason
    assert "add to [models] in site.toml" in reply.refused.reason


def test_another_judge_is_another_model(tmp_path: Path, world: World) -> None:
    other = write_judge(tmp_path / "other", seed=3)
    reply, host = joined(tmp_path / "home", world, judge=str(other))
    assert reply.HasField("refused")
    assert "model" in reply.refused.reason
    host.close()
