"""Workers: the same adapter as without them, an end with their coordinator, and failures in a sentence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from confide.cli import main
from privacy.errors import RunError, UserError
from protocol.job.job_file import job_toml
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from simulation.worker_count import workers_that_pay
from simulation.workers import Worker, deal
from tests import children, tiny


def weights(folder: Path) -> bytes:
    return (RunFolder.open(folder).adapter_path / "adapter_model.safetensors").read_bytes()


@pytest.mark.process
def test_workers_make_the_same_adapter_bit_for_bit(tiny_folder: Path, tmp_path: Path) -> None:
    """Three sites under masks, by one process and by two workers: each has its own noise, keyed."""
    job = tiny.job(
        tiny_folder,
        seeds={"noise": 3},
        training={"rounds": 2},
        aggregation={"kind": "masks"},
        device={"name": "cpu", "precision": "float32"},
    )
    found = [simulate(job, runs=tmp_path, name=f"by-{n}", workers=n).folder for n in (1, 2)]
    assert weights(found[0]) == weights(found[1])


@pytest.mark.process
def test_a_worker_that_is_killed_is_told_in_a_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder)
    folder = World(job).create_folder(tmp_path / "run")
    worker = Worker(job, folder)
    worker._process.kill()
    with pytest.raises(RunError) as raised:
        worker.ask("site-1", b"")
    worker.end()
    assert str(raised.value) == (
        f"the worker process of site-1 ended by signal 9 (Killed): {folder.path / 'run.log'} says more; "
        "--workers 1 needs the least memory"
    )


@pytest.mark.process
def test_workers_end_with_a_coordinator_that_is_killed(tiny_folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 500})))
    command = [sys.executable, "-m", "confide", "simulate", str(job), "--json", "--workers", "2"]
    command += ["--runs", str(tmp_path / "runs")]
    with children.start(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # of the first round: they are at work
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        workers = [int(pid) for pid in listed.split()]
        assert len(workers) == 2
        os.kill(process.pid, signal.SIGKILL)
    children.until(lambda: all(map(children.gone, workers)))


def test_workers_get_as_many_examples_each_as_possible() -> None:
    sizes = {"a": 5, "b": 50, "c": 20, "d": 26, "e": 1}
    shares = deal(sizes, 2)
    assert sorted(site for share in shares for site in share) == sorted(sizes)
    assert [sum(sizes[site] for site in share) for share in shares] == [51, 51]


def test_workers_pay_in_a_long_run_alone(tiny_folder: Path) -> None:
    """Three sites, 3 rounds of 2 steps, 2 batches each: 36 batches."""
    world = World(tiny.job(tiny_folder))

    def pay(seconds: float, cores: int, memory: int = 2**50, **how: bool) -> int:
        return workers_that_pay(world, measure=lambda _world: seconds, cores=cores, memory=memory, **how)

    assert (pay(1.0, 2), pay(1.0, 8)) == (1, 1)  # of 36 s at most 24 are saved
    assert (pay(2.0, 1), pay(2.0, 2), pay(2.0, 8)) == (1, 2, 3)
    assert pay(2.0, 8, memory=1) == 1
    assert (pay(4.0, 2, compared=True), pay(6.0, 2, compared=True)) == (1, 2)  # 72 and 108 s are saved
    assert workers_that_pay(world, cores=8, memory=2**50) == 1  # as it takes here


def test_workers_pay_by_the_batches_of_a_phase(tiny_folder: Path) -> None:
    """Twice as many as [training] says: 72 batches."""
    world = World(tiny.job(tiny_folder, phase=[{"name": "all", "rounds": 3, "batch_size": 32}]))
    assert workers_that_pay(world, measure=lambda _world: 1.0, cores=2, memory=2**50) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "0"], "--workers: expected 1 or more, got 0"),
        (["--workers", "2", "--engine", "ray"], "--workers is for --engine inprocess"),
    ],
)
def test_workers_that_cannot_be_are_refused(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder)))
    monkeypatch.setattr("sys.argv", ["confide", "simulate", str(job), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UserError.exit_code
    assert re.match(f"confide: {re.escape(words)}", capsys.readouterr().err)
