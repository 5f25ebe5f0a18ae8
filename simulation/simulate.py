"""``confide.simulate`` and ``confide.resume``: a job to a finished run and its report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from client.custody.home import Home
from client.custody.policy import Policy, read_policy
from privacy.errors import ConfideError, UserError
from protocol.job.job import Job
from protocol.processes.time_spent import end_lap, profiled
from runs.comparison import read_comparison
from runs.progress import Progress, Silence
from runs.report.report import write_report
from runs.run import Run, new_name
from runs.run_folder import RunFolder
from simulation.booked_homes import has_released
from simulation.compare import compare_run
from simulation.simulated_federation import World
from simulation.simulated_run import Engine, reopen_world, run_in_folder
from simulation.worker_count import check_workers, workers_that_pay

_SILENCE = Silence()


def simulate(
    job: Job,
    *,
    runs: Path = Path("confide-runs"),
    name: str | None = None,
    policy: Path | None = None,
    homes: Path | None = None,
    engine: Engine = "inprocess",
    workers: int | None = None,
    compare: bool = False,
    profile: bool = False,
    progress: Progress = _SILENCE,
) -> Run:
    """Run a job with simulated sites and write its run folder under ``runs``.

    ``policy`` is a ``site.toml`` that each site gets; without it a site allows just this job. ``homes`` is
    a folder in which sites keep their homes over several runs, whose costs then add up. A run that waits
    for a custodian's approval is one to resume. ``engine="ray"`` hands the sites to Flower's own
    simulation engine; ``workers`` processes train sites side by side, as many as pay by default.
    ``compare`` also trains without privacy and each site alone, and ``profile`` says where the time of
    the run itself went. The report is written at the end. Raises UserError for what the job's author can
    mend, before a folder is made, and RunError or SiteError for failures.
    """
    check_workers(workers, engine=engine)
    allowed = None if policy is None else read_policy(policy)
    with profiled(profile) as laps:
        progress.stage("Reading the data and loading the base model")
        world = World(job)
        workers = _workers(world, workers, engine=engine, compare=compare)
        folder = world.create_folder(runs / (name or new_name(job)), flush=homes is not None)
        try:
            _prepare_homes(world, folder, policy=allowed, homes=homes)
            run = _run(world, folder, engine=engine, workers=workers, progress=progress)
        except ConfideError as error:
            released = has_released(folder.path / "sites", folder.manifest.run)
            if error.exit_code == UserError.exit_code and not released:
                # A site refused what the job asks for: nothing ran, so nothing is left to go on with.
                shutil.rmtree(folder.path)
            raise
    if compare:
        run = _compare(run, world, folder, workers=workers, progress=progress)
    return replace(run, profile=tuple(laps))


def resume(
    path: Path,
    *,
    engine: Engine = "inprocess",
    workers: int | None = None,
    compare: bool = False,
    profile: bool = False,
    progress: Progress = _SILENCE,
) -> Run:
    """Go on with an interrupted run from its last finished round.

    Raises RunError if the folder is none, or if the model differs from the one it started with.
    """
    check_workers(workers, engine=engine)
    folder = RunFolder.open(path, flush=(path / "sites").is_symlink())
    with profiled(profile) as laps:
        progress.stage("Reading the data and loading the base model")
        world = reopen_world(folder)
        workers = _workers(world, workers, engine=engine, compare=compare)
        run = _run(world, folder, engine=engine, workers=workers, progress=progress)
    if compare:
        run = _compare(run, world, folder, workers=workers, progress=progress)
    return replace(run, profile=tuple(laps))


def _prepare_homes(world: World, folder: RunFolder, *, policy: Policy | None, homes: Path | None) -> None:
    """Give the sites their homes and policies, where these are not the run's own.

    Sites that are drawn may be many, and have no folders of their own where nobody asks for them.
    """
    if homes is None and policy is None:
        if world.job.federation.cohort is not None:
            world.booked_homes(folder)
        return
    if homes is not None:
        homes.mkdir(parents=True, exist_ok=True)
        (folder.path / "sites").symlink_to(homes.resolve())
    for name in world.site_names:
        home = Home(folder.path / "sites" / name, flush=homes is not None)
        if policy is not None:
            home.write_policy(policy)
        elif homes is not None and not home.has_policy:
            # It must not pin this run's coordinator: each run has a key of its own.
            home.write_policy(world.policy(None))


def _workers(world: World, asked: int | None, *, engine: Engine, compare: bool) -> int:
    """As many workers as were asked for, or as pay."""
    if asked is not None:
        return asked
    return workers_that_pay(world, compared=compare) if engine == "inprocess" else 1


def _run(world: World, folder: RunFolder, *, engine: Engine, workers: int, progress: Progress) -> Run:
    run = run_in_folder(world, folder, engine=engine, workers=workers, progress=progress)
    # The report comes before a comparison: one that is interrupted leaves a finished run with its report.
    write_report(folder)
    end_lap("end")
    return run


def _compare(run: Run, world: World, folder: RunFolder, *, workers: int, progress: Progress) -> Run:
    compare_run(world, folder, workers=workers, progress=progress)
    write_report(folder)
    return replace(run, comparison=read_comparison(folder))
