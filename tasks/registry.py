"""Which tasks there are, and a job's keys of its task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privacy.errors import JobError
from protocol.entry_registry import Registry
from protocol.job.adapter_section import no_adapter
from protocol.job.job import DRAWN, Job
from protocol.job.job_file import explain, read_job_file
from tasks.asked_statistics import refuses_statistics
from tasks.group_task import GroupTask
from tasks.task import (
    Gate,
    GatedTask,
    ProgramTask,
    ReferenceTask,
    SummingTask,
    Task,
    TaskKeys,
    WritingTask,
)

DEFAULT_TASK = "sequence-classification"  # of a site's data set
_TASKS = Registry[Task](
    key="task",
    group="confide.tasks",
    listed={
        "sequence-classification": "tasks.sequence_classification:TASK",
        "document-classification": "tasks.document_classification:TASK",
        "multi-label-classification": "tasks.multi_label_classification:TASK",
        "token-classification": "tasks.token_classification:TASK",
        "text-regression": "tasks.text_regression:TASK",
        "causal-lm": "tasks.causal_lm:TASK",
        "instruction": "tasks.instruction:TASK",
        "preferences": "tasks.preferences:TASK",
        "rewards": "tasks.rewards:TASK",
        "tabular": "tasks.tabular:TASK",
        "series-classification": "tasks.series_classification:TASK",
        "series-forecast": "tasks.series_forecast:TASK",
        "series-anomaly": "tasks.series_anomaly:TASK",
        "event-sequence": "tasks.event_sequence:TASK",
        "image-classification": "tasks.image_classification:TASK",
        "image-anomaly": "tasks.image_anomaly:TASK",
        "audio-classification": "tasks.audio_classification:TASK",
        "image-text": "tasks.image_text:TASK",
        "image-text-classification": "tasks.image_text_classification:TASK",
        "image-segmentation": "tasks.image_segmentation:TASK",
        "volume-segmentation": "tasks.volume_segmentation:TASK",
    },
)


def task_names() -> tuple[str, ...]:
    """The tasks of Confide, and those that packages installed here bring along."""
    return _TASKS.names()


def find_task(name: str) -> Task:
    """The task of this name. Raises UnknownNameError for any but those that are listed or installed."""
    return _TASKS.find(name)


def task_of(job: Job) -> Task:
    """A job's task, on rows or on groups of them. Raises UnknownNameError."""
    task = find_task(job.task)
    most = job.data.rows_per_group
    return GroupTask(task, most=most) if job.privacy.of_groups and most is not None else task


def compares_with_start(job: Job) -> bool:
    """Whether a job compares what it trains with an adapter made before, which all sites need."""
    compares = isinstance(find_task(job.task), ReferenceTask | WritingTask)
    return compares and job.training.warm_start is not None


def has_own_program(job: Job, *, source: str | None = None) -> bool:
    """Whether a job's whole model is exported with a program that loads it, as no library does.

    ``source`` is where the model is, if not where the job says.
    """
    task = find_task(job.task)
    own = isinstance(task, ProgramTask) and task.has_program(source or job.model.source)
    return own or job.model.source == DRAWN or isinstance(task, SummingTask)


def section_of(job: Job) -> TaskKeys:
    """The keys of a job's task, checked. Raises JobError with one line per wrong key."""
    task = task_of(job)
    try:
        section = task.Section.model_validate(job.data.model_extra)
    except ValidationError as error:
        told = explain(error, shown_by="that `confide tasks` lists", model=task.Section, under="data")
        raise JobError(told) from None
    refused = (
        _refuses_model(job, task) or task.refuses(job, section) or refuses_statistics(job, task, section)
    )
    if refused is not None:
        raise JobError(refused)
    if job.strategy.needs_head and not task.headed:
        raise JobError(
            f'strategy.name: "{job.strategy.name}" trains a classifier\'s head alone, and '
            f'task="{task.name}" has none: expected another strategy, such as "ffa"'
        )
    if job.trained_rounds.heads and not (task.headed and job.model.source != DRAWN):
        raise JobError(
            f'phase: expected train = "strategy" with task="{task.name}" and model.source='
            f'"{job.model.source}", got "head": there is no classification head beside an adapter'
        )
    return section


def _refuses_model(job: Job, task: Task) -> str | None:
    """Why a job's model, adapter or strategy is none for its task, naming the key; None if they fit."""
    named = f'task="{task.name}"'
    if job.model.source == DRAWN:
        if task.drawn:
            return _refuses_network(job, named)
        return f'model.source: expected a model that {named} starts from, got "{DRAWN}"'
    if not task.pretrained:
        return f'model.source: expected "{DRAWN}" with {named}, which has a network of its own'
    bare = job.strategy.needs_head and job.adapter == no_adapter()
    fits = isinstance(find_task(job.task), SummingTask)  # which tells itself that there is no adapter
    if not (job.adapter.target_modules or bare or fits):
        return 'adapter.target_modules: expected names of layers, or ["all-linear"], got none'
    return None


def _refuses_network(job: Job, named: str) -> str | None:
    """Why a job of a network that is drawn and trained whole asks for what it has not, or None."""
    strategy = job.strategy
    if job.adapter != no_adapter():
        return f'adapter: expected no such section with model.source="{DRAWN}", which is trained whole'
    whole = {"model.checkpointing": job.model.checkpointing, "device.offload": job.device.offload}
    for key, asked in whole.items():
        if asked:
            return f'{key}: expected false with model.source="{DRAWN}", whose network is small'
    if strategy.keeps_local or strategy.keep_local != "nothing" or strategy.residual or strategy.cored:
        return (
            f'strategy: expected one that averages all that is trained, such as "fedit", with {named} and '
            f'model.source="{DRAWN}", which has no pairs and no head apart; got "{strategy.name}", '
            f'keep_local="{strategy.keep_local}"'
        )
    return None


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


def gate_of(task: str, keys: Mapping[str, object], *, under: str) -> Gate | None:
    """A custodian's rules on what is let into training, checked; None without any.

    Raises JobError with one line per wrong key, and for a task whose rows nobody can have rules on.
    """
    if not keys:
        return None
    found = find_task(task)
    if not isinstance(found, GatedTask):
        raise JobError(f'{under}: expected no gate with task="{task}", whose rows no rule is known for')
    try:
        gate: Any = found.Gate.model_validate(keys)
    except ValidationError as error:
        told = explain(error, shown_by="that docs/data.md lists", model=found.Gate, under=under)
        raise JobError(told) from None
    rules: Gate = gate
    return rules


def checked_job(job: Job) -> Job:
    """The job with its task's keys checked and filled in. Raises JobError with one line per wrong key."""
    return job.model_copy(
        update={"data": job.data.model_copy(update=section_of(job).model_dump(mode="json"))}
    )


def read_job(path: Path, *, settings: Iterable[str] = ()) -> Job:
    """Read a job file, apply ``key=value`` settings, and check it whole. Raises JobError."""
    return checked_job(read_job_file(path, settings=settings))
