"""``confide stats``: what the sites' data are like, before a job says how to train on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.shared_options import Homes, Json, Policy, RunName
from privacy.errors import UserError

if TYPE_CHECKING:
    from runs.statistics_folder import StatisticsRun


def stats(
    job: Annotated[Path | None, typer.Argument(metavar="JOB", help="A job file with [statistics].")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job, as statistics.epsilon=1."),
    ] = None,
    json: Json = False,
    coordinator: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Ask a federation: its coordinator's folder, as provisioned."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a federation's run, or show what it told."),
    ] = None,
    policy: Policy = None,
    homes: Homes = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="The folder that new runs go under.", show_default="confide-runs"),
    ] = None,
    run_name: RunName = None,
) -> None:
    """Count labels, lengths and columns at sites, under noise that is charged for."""
    if (job is None) == (resume is None):
        raise UserError("expected either a JOB file or --resume RUN")
    if resume is not None and (settings or run_name):
        raise UserError("--set and --run-name are for a new run: a resumed one keeps its job")
    real = coordinator is not None or resume is not None
    if real and (policy or homes or runs):
        raise UserError("--policy, --homes and --runs are of simulated sites, and a federation has its own")
    found: StatisticsRun | None = None
    if real:
        found = _asked_of_a_federation(job, resume, coordinator, settings=settings or (), name=run_name)
    elif job is not None:
        found = _simulated(
            job, settings=settings or (), name=run_name, policy=policy, homes=homes, runs=runs, quiet=json
        )
    if found is None:
        return
    from confide.statistics_view import print_statistics, print_statistics_json

    if json:
        print_statistics_json(found)
    else:
        print_statistics(found)


def _simulated(
    job: Path,
    *,
    settings: Sequence[str],
    name: str | None,
    policy: Path | None,
    homes: Path | None,
    runs: Path | None,
    quiet: bool,
) -> StatisticsRun:
    from rich.console import Console

    with Console(quiet=quiet, emoji=False).status("Reading the data and counting at the sites"):
        from simulation.simulated_statistics import ask_statistics
        from tasks.registry import read_job

        parsed, place = read_job(job, settings=settings), runs or Path("confide-runs")
        return ask_statistics(parsed, runs=place, name=name, policy=policy, homes=homes)


def _asked_of_a_federation(
    job: Path | None,
    resume: Path | None,
    coordinator: Path | None,
    *,
    settings: Sequence[str],
    name: str | None,
) -> StatisticsRun | None:
    """What a federation's sites told; None where a person stopped it, or stopped watching."""
    from confide.interruption import interruptible
    from confide.run_command import go_on
    from confide.terminal_status import told_in_a_line
    from runs.statistics_folder import StatisticsFolder
    from server.federated_run import COORDINATOR
    from server.federated_statistics import create_statistics, follow_statistics
    from server.provisioning.coordinator_folder import CoordinatorFolder
    from tasks.registry import read_job

    place = CoordinatorFolder.open(coordinator or COORDINATOR)
    if resume is not None:
        folder = StatisticsFolder.open(resume)
    elif job is not None:
        with interruptible(lambda: "no run was begun"):
            folder = create_statistics(read_job(job, settings=settings), place, name=name)
    while True:
        try:
            with told_in_a_line("Asking the sites") as progress:
                return follow_statistics(folder, place, progress)
        except KeyboardInterrupt:
            if not go_on(folder, place):
                return None
