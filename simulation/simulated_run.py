"""One run with simulated sites: from a world and a folder to finished rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from flwr.serverapp import Grid

from privacy.errors import JobError
from privacy.ledger.ledger_book import BOOK
from protocol.job.draw import cohort_size
from runs.progress import Progress
from runs.run import Run, finished
from runs.run_folder import RoundRecord, RunFolder
from runs.run_log import logged
from server.rounds import run_rounds
from simulation.cohort_grid import CohortGrid, rows_together
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost
from simulation.round_progress import RoundProgress
from simulation.simulated_federation import World
from simulation.sites_on_demand import SitesOnDemand, sites_of_run

Engine = Literal["inprocess", "ray"]


def reopen_world(folder: RunFolder) -> World:
    """The world of an existing run. Raises JobError if what it loads is not what the run began with."""
    manifest = folder.manifest
    world = World(manifest.job, files=folder.model_files)
    if world.manifest(manifest.run) != manifest:
        raise JobError(
            f"{folder.path} was started with another model, label set, layout or first adapter: bring "
            "those back, or start a new run"
        )
    return world


def run_in_folder(
    world: World,
    folder: RunFolder,
    *,
    engine: Engine = "inprocess",
    workers: int = 1,
    progress: Progress,
    title: str = "Run",
) -> Run:
    """Run the rounds that a folder lacks; in-process, with so many ``workers`` beside this process."""
    began = time.perf_counter()
    workers = min(workers, len(world.site_names))
    names = dict(enumerate(world.site_names, start=1))
    watch = RoundProgress(progress, world.job.training)
    progress.started(folder, title)
    with logged(folder):
        if engine == "inprocess" and workers > 1:
            from simulation.workers import worker_grid

            with worker_grid(world, folder, workers=workers, progress=watch) as grid:
                coordinate(grid, world, folder, progress, names=names, watch=watch)
        else:
            sites = sites_of_run(world, folder)
            with _grid(world, folder, sites, engine=engine, watch=watch) as grid:
                ended = _letting_go(sites, folder)
                coordinate(grid, world, folder, progress, names=names, watch=watch, ended=ended)
    return finished(folder, seconds=time.perf_counter() - began)


def _letting_go(sites: SitesOnDemand, folder: RunFolder) -> Callable[[int], None]:
    """Forgets, as a round ends, the sites that the coordinator forgets: what they hold is of no use now."""
    manifest = folder.manifest

    def ended(number: int) -> None:
        now, then = manifest.drawn(number + 1), manifest.drawn(number + 2)
        if now is not None and then is not None:
            sites.keep_only(now | then)

    return ended


@contextmanager
def _grid(
    world: World, folder: RunFolder, sites: SitesOnDemand, *, engine: Engine, watch: RoundProgress
) -> Iterator[Grid]:
    """A grid over sites that are in this process, wherever they train."""
    settle = None
    if (folder.path / "sites" / BOOK).exists():
        book = world.booked_homes(folder).book
        book.batched, settle = True, book.commit
    if engine == "ray":
        from simulation.ray_engine import ray_grid

        with ray_grid(world, folder, sites, settle=settle, progress=watch) as grid:
            yield grid
        return
    at_once = cohort_size(world.job.federation.cohort, sites=len(sites))
    alone = bool(world.own_trainers)
    rows = None if alone else _rows_together(world, at_once)
    if rows is None:
        yield InProcessGrid(sites, settle=settle, progress=watch)
    else:
        yield CohortGrid(sites, rows=rows, settle=settle, progress=watch)


def _rows_together(world: World, sites: int) -> int | None:
    """How high batches are that so many sites share; measured once for all runs on one world's model."""
    job, training = world.job, world.job.training
    key = sites, training.batch_size, training.physical_batch_size, job.seeds.noise is None
    if key not in world.measured:
        world.measured[key] = rows_together(world.trainer, job, sites=sites)
    return world.measured[key]


def coordinate(
    grid: Grid,
    world: World,
    folder: RunFolder,
    progress: Progress,
    *,
    names: Mapping[int, str] | None = None,
    watch: RoundProgress | None = None,
    ended: Callable[[int], None] | None = None,
) -> None:
    """The coordinator's part, over whichever grid reaches the sites; ``names`` of its nodes, if known.

    ``watch`` is for a grid that tells of each answer; ``ended`` hears of each round that is done.
    """

    def listen(record: RoundRecord) -> None:
        progress.round(record)
        if ended is not None:
            ended(record.round)

    run_rounds(
        OpenPost(grid, names=names, progress=watch),
        folder,
        layout=world.adapted.layout,
        evaluator=world.workplace.evaluator,
        listener=listen,
    )
