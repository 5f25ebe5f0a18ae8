"""Which tasks there are. A job is a stranger's words: no module is imported because a job names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pydantic import ValidationError

from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.job_file import explain, read_job_file
from protocol.plain_text import quoted
from tasks.task import Task, TaskKeys

ENTRY_POINTS = "confide.tasks"
DEFAULT_TASK = "sequence-classification"  # of a site's data set
_OWN: Mapping[str, str] = {
    "sequence-classification": "tasks.sequence_classification",
    "causal-lm": "tasks.causal_lm",
}


def task_names() -> tuple[str, ...]:
    """The tasks of Confide, and those that packages installed here bring along."""
    return (*_OWN, *sorted(_installed().keys() - _OWN.keys()))


@cache
def find_task(name: str) -> Task:
    """The task of this name: one of Confide's, or one under the entry point group ``confide.tasks``.

    Raises JobError for any other.
    """
    if name in _OWN:
        task: Task = import_module(_OWN[name]).TASK
        return task
    found = _installed().get(name)
    if found is None:
        raise JobError(f"task: expected one of {', '.join(task_names())}, got {quoted(name)}")
    installed: Task = found.load()
    return installed


def section_of(job: Job) -> TaskKeys:
    """The keys of a job's task, checked. Raises JobError with one line per wrong key."""
    task = find_task(job.task)
    try:
        section = task.Section.model_validate(job.data.model_extra)
    except ValidationError as error:
        told = explain(error, shown_by="that `confide tasks` lists", model=task.Section, under="data")
        raise JobError(told) from None
    refused = task.refuses(job, section)
    if refused is not None:
        raise JobError(refused)
    return section


def columns_of(task: str, keys: Mapping[str, object], *, under: str) -> TaskKeys:
    """The keys with which a site reads a data set, checked; they stand ``under`` this section of its file.

    Raises JobError with one line per wrong key.
    """
    model = find_task(task).Columns
    try:
        return model.model_validate(keys)
    except ValidationError as error:
        told = explain(error, shown_by="that `confide tasks` lists", model=model, under=under)
        raise JobError(told) from None


def checked_job(job: Job) -> Job:
    """The job with its task's keys checked and filled in. Raises JobError with one line per wrong key."""
    return job.model_copy(
        update={"data": job.data.model_copy(update=section_of(job).model_dump(mode="json"))}
    )


def read_job(path: Path, *, settings: Iterable[str] = ()) -> Job:
    """Read a job file, apply ``key=value`` settings, and check it whole. Raises JobError."""
    return checked_job(read_job_file(path, settings=settings))


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
