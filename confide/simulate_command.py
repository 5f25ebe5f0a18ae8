"""``confide simulate``: a job, or stages one after another, with simulated sites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from confide.interruption import command_line, interruptible
from confide.shared_options import Homes, JsonLines, Policy, RunName, Settings
from privacy.errors import UserError


class Engine(StrEnum):
    """Where simulated sites run."""

    inprocess = "inprocess"
    ray = "ray"


def simulate(
    job: Annotated[Path | None, typer.Argument(metavar="JOB", help="A job file, or one of stages.")] = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with an interrupted run instead of a new one."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train without privacy, and each site alone.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="inprocess, or ray for Flower's own simulation engine.")
    ] = Engine.inprocess,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Processes that train sites side by side.", show_default="as many as pay"
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time of the rounds went.")
    ] = False,
    json: JsonLines = False,
    policy: Policy = None,
    homes: Homes = None,
    runs: Annotated[Path, typer.Option(help="The folder that new runs go under.")] = Path("confide-runs"),
    run_name: RunName = None,
) -> None:
    """Run a job, or stages one after another, with simulated sites on this machine."""
    if (job is None) == (resume is None):
        raise UserError("expected either a JOB file or --resume RUN")
    if resume is not None and (settings or run_name or policy or homes):
        raise UserError(
            "--set, --run-name, --policy and --homes are for a new run: a resumed one keeps its job, and "
            "its sites their homes"
        )
    from confide.terminal import choose_display
    from protocol.job.stages_file import is_stages_file, is_stages_folder

    in_stages = is_stages_folder(resume) if resume is not None else job is not None and is_stages_file(job)
    found = resume

    def advice() -> str:
        if found is None or not found.exists():
            return "no run was begun"
        options = ["--engine", engine.value] * (engine is not Engine.inprocess) + ["--compare"] * compare
        options += [] if workers is None else ["--workers", str(workers)]
        options += ["--profile"] * profile
        return f"go on with: {command_line('confide', 'simulate', '--resume', found, *options)}"

    if in_stages:
        with interruptible(advice):
            from confide.stages_view import begin_stages, run_stages
            from simulation.progression.progression import Progression

            if job is not None:
                begun = begin_stages(
                    job,
                    settings=settings or (),
                    runs=runs,
                    name=run_name,
                    policy=policy,
                    homes=homes,
                    json=json,
                )
                found = begun.path
            elif resume is not None:
                begun = Progression(resume)
            run_stages(
                begun, json=json, engine=engine.value, workers=workers, compare=compare, profile=profile
            )
        return
    display = choose_display(json=json)
    with interruptible(advice), display:
        from runs.run import new_name
        from simulation.simulate import resume as resume_run
        from simulation.simulate import simulate as simulate_job
        from tasks.registry import read_job

        if resume is not None:
            run = resume_run(
                resume,
                engine=engine.value,
                workers=workers,
                compare=compare,
                profile=profile,
                progress=display,
            )
        elif job is not None:
            parsed = read_job(job, settings=settings or ())
            name = run_name or new_name(parsed)
            found = runs / name
            run = simulate_job(
                parsed,
                runs=runs,
                name=name,
                policy=policy,
                homes=homes,
                engine=engine.value,
                workers=workers,
                compare=compare,
                profile=profile,
                progress=display,
            )
        display.finished(run)
