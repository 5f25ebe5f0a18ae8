"""One run with simulated sites: from a world and a folder to finished rounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flwr.serverapp import Grid

from privacy.errors import JobError, RunError
from server.metrics import Metrics
from server.rounds import run_rounds
from server.run_folder import RoundRecord, RunFolder
from simulation.grid import InProcessGrid
from simulation.progress import Progress
from simulation.world import World

Engine = Literal["inprocess", "ray"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is, and what came out; ``metrics`` if the job asked for them."""

    folder: Path
    rounds: tuple[RoundRecord, ...]
    seconds: float
    metrics: Metrics | None = None

    @property
    def adapter(self) -> Path:
        """The last adapter, in PEFT's own format."""
        return self.folder / "adapter"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @property
    def accuracy(self) -> float:
        """Held-out accuracy after the last round."""
        return self.rounds[-1].accuracy

    @property
    def epsilon(self) -> dict[str, float | None]:
        """ε spent by site; None where the run had no privacy."""
        return self.rounds[-1].epsilon


def reopen_world(folder: RunFolder) -> World:
    """The world of an existing run. Raises JobError if what it loads is not what the run began with."""
    manifest = folder.manifest
    world = World(manifest.job)
    if world.manifest(manifest.run) != manifest:
        raise JobError(
            f"{folder.path} was started with another base model, label set or layout: bring those back, or "
            "start a new run"
        )
    return world


def create_folder(world: World, path: Path) -> RunFolder:
    """The folder of a new run, whole from the start."""
    evaluator = world.evaluator()
    before = evaluator.score(world.initial_adapter)
    facts = dict(world.facts()) | {
        "majority": evaluator.majority,
        "loss_before": before.loss,
        "accuracy_before": before.accuracy,
    }
    return RunFolder.create(
        path,
        manifest=world.manifest(path.name),
        facts=facts,
        layout=world.adapted.layout,
        adapter=world.initial_adapter,
        adapter_config=world.adapter_config(),
    )


def run_in_folder(
    world: World,
    folder: RunFolder,
    *,
    engine: Engine = "inprocess",
    progress: Progress,
    title: str = "Run",
) -> Run:
    """Run the rounds that a folder lacks."""
    began = time.perf_counter()
    progress.started(folder, title)
    with logged(folder):
        if engine == "ray":
            from simulation.ray_engine import run_on_ray

            run_on_ray(
                world.job,
                sites=len(world.site_names),
                home=folder.path / "sites",
                coordinate=lambda grid: coordinate(grid, world, folder, progress),
            )
        else:
            coordinator = folder.identity.public
            homes = {name: folder.path / "sites" / name for name in world.site_names}
            sites = [world.site(name, home=home, coordinator=coordinator) for name, home in homes.items()]
            grid = InProcessGrid({i: site.answer for i, site in enumerate(sites, start=1)})
            coordinate(grid, world, folder, progress)
    records = folder.records()
    if not records:
        raise RunError(f"{folder.path}: no round was finished; see its run.log")
    return Run(
        folder=folder.path,
        rounds=tuple(records),
        seconds=time.perf_counter() - began,
        metrics=folder.metrics,
    )


def coordinate(grid: Grid, world: World, folder: RunFolder, progress: Progress) -> None:
    """The coordinator's part, over whichever grid reaches the sites."""
    run_rounds(
        grid,
        folder,
        layout=world.adapted.layout,
        evaluator=world.evaluator(),
        listener=progress.round,
    )


@contextmanager
def logged(folder: RunFolder) -> Iterator[None]:
    """Write what Confide logs to the run's own log."""
    handler = logging.FileHandler(folder.path / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("confide")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        yield
    except Exception:
        root.exception("the run stopped")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
