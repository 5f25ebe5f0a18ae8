"""``confide.simulate``: a job from its file to a run folder."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import contextmanager
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from privacy.errors import JobError, RunError
from protocol.job import Job
from server.rounds import Listener, run_rounds
from server.run_folder import RoundRecord, RunFolder
from simulation.grid import InProcessGrid
from simulation.world import World

Engine = Literal["inprocess", "ray"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is, and what came out."""

    folder: Path
    rounds: tuple[RoundRecord, ...]
    seconds: float

    @property
    def adapter(self) -> Path:
        """The last adapter, in PEFT's own format."""
        return self.folder / "adapter"

    @property
    def accuracy(self) -> float:
        """Held-out accuracy after the last round."""
        return self.rounds[-1].accuracy

    @property
    def epsilon(self) -> dict[str, float | None]:
        """ε spent by site; None where the run had no privacy."""
        return self.rounds[-1].epsilon


def simulate(
    job: Job,
    *,
    runs: Path = Path("runs"),
    name: str | None = None,
    engine: Engine = "inprocess",
    listener: Listener = lambda record: None,
    on_start: Callable[[RunFolder], None] = lambda folder: None,
) -> Run:
    """Run a job with simulated sites and write its run folder under ``runs``.

    ``engine="ray"`` hands the sites to Flower's own simulation engine. Raises UserError for what the
    job's author can mend, before a folder is made, and RunError or SiteError for failures.
    """
    began = time.perf_counter()
    world = World(job)
    folder = create_folder(world, runs=runs, name=name or new_name(job))
    return _go_on(world, folder, engine, listener, on_start, began)


def resume(
    path: Path,
    *,
    engine: Engine = "inprocess",
    listener: Listener = lambda record: None,
    on_start: Callable[[RunFolder], None] = lambda folder: None,
) -> Run:
    """Go on with an interrupted run from its last finished round.

    Raises RunError if the folder is none, or if the model differs from the one it started with.
    """
    began = time.perf_counter()
    folder = RunFolder.open(path)
    manifest = folder.manifest
    world = World(manifest.job)
    if world.manifest(manifest.run) != manifest:
        raise JobError(
            f"{path} was started with another base model, label set or layout: bring those back, or "
            "start a new run"
        )
    return _go_on(world, folder, engine, listener, on_start, began)


def create_folder(world: World, *, runs: Path, name: str) -> RunFolder:
    """The folder of a new run, whole from the start."""
    facts = dict(world.facts()) | {"majority": world.evaluator().majority}
    return RunFolder.create(
        runs / name,
        manifest=world.manifest(name),
        facts=facts,
        layout=world.adapted.layout,
        adapter=world.initial_adapter,
        adapter_config=world.adapter_config(),
    )


def new_name(job: Job) -> str:
    """A run's name: the job's, the time, and four random hex digits."""
    return f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _go_on(
    world: World,
    folder: RunFolder,
    engine: Engine,
    listener: Listener,
    on_start: Callable[[RunFolder], None],
    began: float,
) -> Run:
    on_start(folder)
    with logged(folder):
        if engine == "ray":
            from simulation.ray_engine import run_on_ray

            run_on_ray(world, folder, listener)
        else:
            sites = [world.site(n, home=folder.path / "sites" / n) for n in world.site_names]
            grid = InProcessGrid({i: site.answer for i, site in enumerate(sites, start=1)})
            run_rounds(
                grid,
                folder,
                layout=world.adapted.layout,
                evaluator=world.evaluator(),
                listener=listener,
            )
    records = folder.records()
    if not records:
        raise RunError(f"{folder.path}: no round was finished; see its run.log")
    return Run(
        folder=folder.path, rounds=tuple(records), seconds=time.perf_counter() - began
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
