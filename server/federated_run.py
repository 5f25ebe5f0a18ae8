"""``confide.run``: a job to a finished run of a real federation, by way of the coordinator's server."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from privacy.errors import ConfideError, JobError, RunError, SiteError, UserError
from protocol.job.draw import cohort_size
from protocol.job.job import Job
from protocol.job.ranks import with_named_ranks
from runs.asked_folder import AskedFolder
from runs.progress import Progress, Silence
from runs.run import Run, finished, new_name
from runs.run_folder import RunFolder
from runs.run_state import (
    RunState,
    flower_run,
    is_coordinated,
    keep_flower_run,
    read_state,
    write_state,
)
from server.job_context import Workplace, check_federation
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.fab import write_app
from server.service.flower_cli import FlowerCli
from server.service.server import is_running

COORDINATOR = Path("federation/coordinator")  # where provisioning puts the folder, by default

_SILENCE = Silence()
_LOOK = 0.3  # seconds between two looks at the run folder
_START = 120.0  # seconds that Flower may take to start the coordinating process


def create(job: Job, coordinator: CoordinatorFolder, *, name: str | None = None) -> RunFolder:
    """The folder of a new run. Raises UserError for what the job's author can mend."""
    everyone = sites_for(job, coordinator)
    cohort = cohort_size(job.federation.cohort, sites=len(everyone))
    check_federation(job, everyone)
    job = with_named_ranks(job, everyone)
    workplace = Workplace.load(job)
    run = name or new_name(job)
    return workplace.create_folder(
        coordinator.runs / run,
        manifest=workplace.manifest(
            run, cohort=cohort, sites=() if job.federation.cohort is None else tuple(everyone)
        ),
        coordinator_key=coordinator.identity_key,
        federation=coordinator.federation.name,
    )


def sites_for(job: Job, coordinator: CoordinatorFolder) -> list[str]:
    """The sites that a new run can ask. Raises RunError without a server, JobError for what all refuse."""
    if not is_running(coordinator):
        raise RunError(f"the server does not run: confide server start {coordinator.path}")
    everyone = sorted(coordinator.federation.active_sites)
    if not everyone:
        raise JobError(
            f"expected a site in the federation {coordinator.federation.name}, got none: `confide "
            "provision` adds those that are new in federation.toml"
        )
    if job.seeds.noise is not None:
        raise JobError("seeds.noise: expected none: noise that repeats protects nobody; sites refuse it")
    return everyone


def submit(folder: AskedFolder, coordinator: CoordinatorFolder) -> None:
    """Ask the server to run what the folder lacks. Raises RunError if it is not there."""
    write_state(folder, RunState(state="waiting"))
    if coordinator.run(folder.path.name).resolve() != folder.path.resolve():
        raise UserError(f"expected a run of this coordinator, under {coordinator.runs}, got {folder.path}")
    with tempfile.TemporaryDirectory() as place:
        app = Path(place) / "app"
        write_app(app)
        keep_flower_run(folder, FlowerCli(coordinator.flower_home).run(app, {"run": folder.path.name}))


def watch(folder: RunFolder, coordinator: CoordinatorFolder, progress: Progress) -> None:
    """Tell of each round as it is finished, until the run ends. Raises what ended it, or RunError."""
    progress.started(folder, "Run")
    told = len(folder.records())

    def look() -> None:
        nonlocal told
        records = folder.records()
        for record in records[told:]:
            progress.round(record)
        told = len(records)

    wait_for(folder, coordinator, progress, look=look)


def wait_for(
    folder: AskedFolder,
    coordinator: CoordinatorFolder,
    progress: Progress,
    *,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a run ends, telling whom it waits for; ``look`` is called each time before its end is.

    Raises what ended it, or RunError.
    """
    doing = ""
    waited_since = time.monotonic()
    while True:
        # Alive is asked first: a run that ends in between has written how.
        alive = is_coordinated(folder)
        state = read_state(folder) or RunState(state="waiting")
        look()
        if state.doing != doing:
            doing = state.doing
            progress.doing(doing)
        if state.state == "finished":
            return
        if state.state in ("failed", "stopped") and not alive:
            raise _ended(folder, coordinator, state)
        if not alive and state.state == "running":
            raise RunError(
                f"{folder.path}: its coordinating process died; go on with: "
                f"{resume_command(folder, coordinator)}"
            )
        if not alive and time.monotonic() - waited_since > _START:
            raise RunError(_never_started(folder, coordinator))
        time.sleep(_LOOK)


def stop(folder: AskedFolder, coordinator: CoordinatorFolder) -> None:
    """End a run after its last finished round. It can be resumed."""
    number = flower_run(folder)
    if number is None:
        raise RunError(f"{folder.path}: Flower has not started it")
    FlowerCli(coordinator.flower_home).stop(number)
    _wait_until(lambda: not is_coordinated(folder), what=f"{folder.path} did not stop")
    ended = read_state(folder)
    if ended is not None and ended.state == "finished":
        return
    write_state(folder, RunState(state="stopped", reason="it was stopped"))


def run(
    job: Job,
    *,
    coordinator: Path = COORDINATOR,
    name: str | None = None,
    progress: Progress = _SILENCE,
) -> Run:
    """Run a job with the sites of a federation, whose server runs on this machine.

    ``coordinator`` is the coordinator's folder, as provisioned. Raises UserError for what the job's author
    can mend, RunError or SiteError for failures.
    """
    place = CoordinatorFolder.open(coordinator)
    progress.stage("Reading the held-out data and loading the base model")
    return follow(create(job, place, name=name), place, progress)


def follow(folder: RunFolder, coordinator: CoordinatorFolder, progress: Progress) -> Run:
    """Watch a run to its end, started or resumed at its last finished round where nobody is at it."""
    hand_over(folder, coordinator, progress)
    watch(folder, coordinator, progress)
    # Not how long it was watched: it may have run long before.
    return finished(folder, seconds=sum(record.seconds for record in folder.records()))


def hand_over(folder: AskedFolder, coordinator: CoordinatorFolder, progress: Progress) -> None:
    """Ask the server to go on with a run where nobody is at it, and it is not finished."""
    if not (is_coordinated(folder) or _is_under_way(folder, coordinator, read_state(folder))):
        progress.stage("Handing the run to the server")
        submit(folder, coordinator)


def resume_command(folder: AskedFolder, coordinator: CoordinatorFolder) -> str:
    """What a person types to go on with a run, or to watch it."""
    words = ["confide", folder.COMMAND, "--resume", str(folder.path)]
    if coordinator.path != COORDINATOR:
        words += ["--coordinator", str(coordinator.path)]
    return shlex.join(words)


def _is_under_way(folder: AskedFolder, coordinator: CoordinatorFolder, state: RunState | None) -> bool:
    """Whether a run is finished, or handed over and not yet started: not to be handed over again."""
    number = flower_run(folder)
    if state is None or state.state != "waiting" or number is None:
        return state is not None and state.state == "finished"
    return not FlowerCli(coordinator.flower_home).find(number).finished


def _ended(folder: AskedFolder, coordinator: CoordinatorFolder, state: RunState) -> ConfideError:
    if state.exit_code > 1:
        return SiteError(state.reason, exit_code=state.exit_code)
    return RunError(f"{state.reason}; go on with: {resume_command(folder, coordinator)}")


def _never_started(folder: AskedFolder, coordinator: CoordinatorFolder) -> str:
    known, number = "it has no number there", flower_run(folder)
    if number is not None:
        found = FlowerCli(coordinator.flower_home).find(number)
        known = f"there it is {found.status}" + (f", {found.details}" if found.details else "")
    return (
        f"{folder.path}: Flower did not start it within {_START:.0f} s ({known}); see {coordinator.logs}, "
        f"and go on with: {resume_command(folder, coordinator)}"
    )


def _wait_until(done: Callable[[], bool], *, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise RunError(what)
        time.sleep(_LOOK)
