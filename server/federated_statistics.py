"""``confide stats`` with a federation: a job's ``[statistics]``, asked of real sites by its server."""

from __future__ import annotations

from pathlib import Path

from privacy.errors import JobError
from protocol.job.job import Job
from runs.progress import Progress, Silence
from runs.run import new_name
from runs.statistics_folder import StatisticsFolder, StatisticsRun
from server.federated_run import COORDINATOR, hand_over, sites_for, wait_for
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.statistics_round import statistics_manifest
from tasks.registry import checked_job, find_task, section_of

_SILENCE = Silence()


def create_statistics(
    job: Job, coordinator: CoordinatorFolder, *, name: str | None = None
) -> StatisticsFolder:
    """The folder of a new run of statistics. Raises UserError for what the job's author can mend.

    No model and no examples are read: each site has a tokenizer of its own, if its task needs one.
    """
    job = checked_job(job)
    run = name or f"{new_name(job)}-statistics"
    everyone = sites_for(job, coordinator)
    manifest = statistics_manifest(job, run=run, sites=len(everyone))
    if find_task(job.task).labelled and not section_of(job).classes:
        raise JobError(
            "data.labels: missing; a site counts for a job that lists the labels which it declares itself"
        )
    return StatisticsFolder.create(
        coordinator.runs / run, manifest=manifest, coordinator_key=coordinator.identity_key
    )


def follow_statistics(
    folder: StatisticsFolder, coordinator: CoordinatorFolder, progress: Progress = _SILENCE
) -> StatisticsRun:
    """Watch a run of statistics to its end, started or resumed where nobody is at it.

    Of a finished one nobody is asked again. Raises SiteError or RunError, as it ended.
    """
    if not folder.finished:
        hand_over(folder, coordinator, progress)
        wait_for(folder, coordinator, progress)
    return folder.run()


def ask_federation(
    job: Job,
    *,
    coordinator: Path = COORDINATOR,
    name: str | None = None,
    progress: Progress = _SILENCE,
) -> StatisticsRun:
    """Ask a job's ``[statistics]`` of the sites of a federation, whose server runs on this machine.

    ``coordinator`` is the coordinator's folder, as provisioned. Raises UserError for what the job's author
    can mend, SiteError or RunError where too few sites answer: nothing is charged at one that refuses.
    """
    place = CoordinatorFolder.open(coordinator)
    return follow_statistics(create_statistics(job, place, name=name), place, progress)
