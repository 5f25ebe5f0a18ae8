"""``confide run``: a job on a real federation, watched live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.shared_options import JsonLines, RunName, Settings
from privacy.errors import UserError

if TYPE_CHECKING:
    from runs.asked_folder import AskedFolder
    from server.provisioning.coordinator_folder import CoordinatorFolder

Coordinator = Annotated[
    Path, typer.Option(metavar="DIR", help="The coordinator's folder, as provisioned; its server must run.")
]


def run(
    job: Annotated[Path | None, typer.Argument(metavar="JOB", help="A job file.")] = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run, or watch it where it still goes on."),
    ] = None,
    coordinator: Coordinator = Path("federation/coordinator"),
    run_name: RunName = None,
    json: JsonLines = False,
) -> None:
    """Run a job with the sites of a federation."""
    if (job is None) == (resume is None):
        raise UserError("expected either a JOB file or --resume RUN")
    if resume is not None and (settings or run_name):
        raise UserError("--set and --run-name are for a new run: a resumed one keeps its job")
    from confide.interruption import interruptible
    from confide.terminal import choose_display
    from runs.run_folder import RunFolder
    from server.federated_run import create, follow
    from server.provisioning.coordinator_folder import CoordinatorFolder
    from tasks.registry import read_job

    place = CoordinatorFolder.open(coordinator)
    if resume is not None:
        folder = RunFolder.open(resume)
    elif job is not None:
        with interruptible(lambda: "no run was begun"), choose_display(json=json) as display:
            display.stage("Reading the held-out data and loading the base model")
            folder = create(read_job(job, settings=settings or ()), place, name=run_name)
    while True:
        try:
            with choose_display(json=json) as display:
                display.finished(follow(folder, place, display))
                return
        except KeyboardInterrupt:
            if not go_on(folder, place):
                return


def go_on(folder: AskedFolder, coordinator: CoordinatorFolder) -> bool:
    """After Ctrl-C: ask what it meant. Whether to go on watching; another Ctrl-C only stops watching."""
    from server.federated_run import resume_command, stop

    question = "Stop the run (s), only stop watching (w), or go on (enter)?"
    try:
        answer = typer.prompt(question, default="", show_default=False).strip().lower()
    except (typer.Abort, KeyboardInterrupt):
        answer = "w"
    if answer == "s":
        stop(folder, coordinator)
        print(f"Stopped; go on with: {resume_command(folder, coordinator)}")
        return False
    if answer == "w":
        print(f"The run goes on; watch it with: {resume_command(folder, coordinator)}")
        return False
    return True
