"""Training on Ray: actors on all cores of one machine, or of the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from privacy.errors import JobError, RunError, UserError
from protocol.job.draw import cohort_size
from protocol.job.job_file import beside
from protocol.messages.vector import to_bytes
from protocol.plain_text import first_line
from runs.run_folder import RunFolder
from simulation.cohort_grid import MOST_TOGETHER, rows_together
from simulation.quiet import terminal_for_us_alone
from simulation.round_progress import RoundProgress
from simulation.simulated_federation import World
from simulation.sites_on_demand import SitesOnDemand
from tasks.registry import compares_with_start

# What an actor may keep of its sites' activations, beside what this process takes.
KEPT_BYTES = 1 << 30
# Seconds until an actor has loaded a large model, or a cluster that is busy has room for one; and until the
# cluster's address answers.
_PATIENCE, _ANSWERS = 900.0, 10.0
_STARTS = 3  # how often Ray is started on this machine before it cannot be
# Batches that an actor trains in a round: with several, who is slow has fewer.
_BATCHES = 4


@contextlib.contextmanager
def ray_grid(
    world: World,
    folder: RunFolder,
    sites: SitesOnDemand,
    *,
    settle: Callable[[], None] | None,
    progress: RoundProgress | None = None,
) -> Iterator[Any]:
    """A grid over ``sites`` whose actors end with the block.

    The run's log takes what Ray would write to the terminal. Raises UserError if Ray is not installed or
    its cluster has no machine for an actor, RunError if there is no cluster at RAY_ADDRESS.
    """
    if find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'confide[ray]'")
    with terminal_for_us_alone(folder.path / "run.log"), _connected():
        from simulation.ray_crew import Crew
        from simulation.ray_grid import RayGrid

        at_once = cohort_size(world.job.federation.cohort, sites=len(sites))
        needs = _needs(world)
        count = min(_room(needs), at_once)
        batch = min(MOST_TOGETHER, math.ceil(at_once / (_BATCHES * count)))
        handles = _actors(world, needs, count=count, batch=batch)
        yield RayGrid(
            sites, Crew(handles, batch=batch, patience=_PATIENCE), settle=settle, progress=progress
        )


def _actors(world: World, needs: dict[str, float], *, count: int, batch: int) -> list[Any]:
    import ray

    from simulation.ray_actor import Equipment, TrainingActor

    if world.job.adapter.ranks is not None:
        raise JobError("adapter.ranks: expected none with --engine ray, whose actors hold one model each")
    if ":" in world.job.device.name:
        raise JobError(
            f'device.name={world.job.device.name!r}: expected "cuda" with --engine ray, which gives each '
            "actor a GPU of its own"
        )
    job = beside(world.job, Path.cwd())
    device = job.device.model_copy(update={"threads": int(needs["num_cpus"])})
    equipment = Equipment(
        job=job.model_copy(update={"device": device}).model_dump_json(),
        labels=world.labels,
        model_digest=world.adapted.model_digest,
        layout_digest=world.adapted.layout.digest,
        rows=rows_together(world.trainer, world.job, sites=batch),
        kept_bytes=KEPT_BYTES,
        start=to_bytes(world.initial_adapter) if compares_with_start(world.job) else None,
        files=world.adapted.base.files,
    )
    actor = ray.remote(TrainingActor).options(**needs, scheduling_strategy="SPREAD")
    return [actor.remote(equipment) for _ in range(count)]


def _needs(world: World) -> dict[str, float]:
    """What an actor takes of a machine: as many cores as the job says, or one; each is as large as this."""
    return {
        "num_cpus": world.job.device.threads or 1,
        "num_gpus": 1 if world.device.torch.type == "cuda" else 0,
        "memory": psutil.Process().memory_info().rss + KEPT_BYTES,
    }


def _room(needs: dict[str, float]) -> int:
    """How many actors the machines of the cluster have room for. Raises UserError for none."""
    import ray

    names = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"]}
    found = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        found += int(min(has.get(name, 0) // need for name, need in names.items() if need))
    if not found:
        raise UserError(
            f"no machine of the Ray cluster has room for an actor: each needs {names['CPU']} cores "
            f"(device.threads), {names['GPU']} GPUs and {names['memory'] / 2**30:.1f} GiB"
        )
    return found


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Within this block Ray is at RAY_ADDRESS, or is started on this machine, for this process alone.

    Where the caller has connected it already it is left as it is.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    alone = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    with tempfile.TemporaryDirectory() as folder:
        # Ray puts the driver's folder first on its workers' path: a folder ``client`` there would win.
        with contextlib.chdir(folder):
            _begin(address, alone if address == "local" else {})
        try:
            yield
        finally:
            ray.shutdown()


def _begin(address: str, options: Mapping[str, Any]) -> None:
    """Connect to Ray, or start it. Raises RunError."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **options)
            return
        except Exception as error:
            # That its node is not up within 30 seconds, on a busy machine, Ray says by a plain Exception.
            slow = type(error) is Exception
            if not slow and not isinstance(error, ConnectionError | ValueError | RuntimeError):
                raise
            if not slow or not left:
                said = first_line(error)
                raise RunError(f"RAY_ADDRESS={address}: Ray cannot be reached: {said}") from error
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raises RunError if nobody listens at ``host:port``, where Ray would try again for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"RAY_ADDRESS={address}: nothing answers there: {error}") from error
