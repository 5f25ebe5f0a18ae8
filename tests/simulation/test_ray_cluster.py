"""A run on a cluster of two machines, one of which is lost on the way."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray.cluster_utils import Cluster

from privacy.errors import ConfideError, RunError, UserError
from runs.progress import Silence
from runs.run_audit import audit_run
from runs.run_folder import RoundRecord, RunFolder
from simulation.simulate import simulate
from tests import tiny

KEYED = {"seeds": {"noise": 3}}
# Each site is drawn for half of the rounds, and has no folder of its own.
DRAWN = {"federation": {"sites": 6, "cohort": 3}, "training": {"rounds": 4}}


def weights(folder: Path) -> bytes:
    return (RunFolder.open(folder).adapter_path / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    """A head without cores, and a machine with one."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        found.add_node(num_cpus=1)
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    return started


@pytest.mark.process
def test_two_machines_make_the_same_adapter_and_one_of_them_may_be_lost(
    tiny_folder: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """Each machine has room for one actor, so the loss of either is the loss of one that has trained."""
    another = cluster.add_node(num_cpus=1)
    job = tiny.job(tiny_folder, **KEYED, **DRAWN, aggregation={"kind": "masks"})

    class Loses(Silence):
        def round(self, record: RoundRecord) -> None:
            if record.round == 2:
                cluster.remove_node(another, allow_graceful=False)

    alone = simulate(job, runs=tmp_path, name="alone")
    run = simulate(job, runs=tmp_path, name="ray", engine="ray", progress=Loses())
    assert weights(run.folder) == weights(alone.folder)
    assert "an actor has ended" in (run.folder / "run.log").read_text()
    audit_run(RunFolder.open(run.folder))
    assert (run.folder / "sites/book.db").exists()


@pytest.mark.process
def test_what_a_site_says_of_its_training_is_what_it_says_without_ray(
    tiny_folder: Path, tmp_path: Path, cluster: Cluster
) -> None:
    training = {"learning_rate": 1e38, "local_steps": 4}
    job = tiny.job(tiny_folder, training=training, privacy={"mechanism": "none"})
    told = []
    for engine in ("inprocess", "ray"):
        with pytest.raises(ConfideError) as raised:
            simulate(job, runs=tmp_path, name=engine, engine=engine)
        told.append(str(raised.value))
    assert told[0] == told[1]
    assert "NaN or infinite" in told[0]


@pytest.mark.process
def test_a_cluster_with_too_little_room_is_told(
    tiny_folder: Path, tmp_path: Path, cluster: Cluster
) -> None:
    with pytest.raises(UserError, match=r"each needs 2 cores \(device.threads\)"):
        simulate(tiny.job(tiny_folder, device={"threads": 2}), runs=tmp_path, engine="ray")


def test_no_cluster_is_told(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(RunError, match=f"^RAY_ADDRESS={re.escape(address)}: nothing answers there"):
            simulate(tiny.job(tiny_folder), runs=tmp_path, engine="ray")
