"""The column of labels, as jobs and sites write it, for all tasks whose examples may have some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from protocol.job.job import Dirichlet
from protocol.plain_text import MOST_LABELS, Label, Word
from tasks.data.rows import present
from tasks.task import TaskKeys

if TYPE_CHECKING:
    from protocol.job.job import Job


class LabelledKeys(TaskKeys):
    """The column of labels; ``labels`` are in the order of the outputs."""

    label: Word | None = None
    labels: Annotated[list[Label], Field(min_length=2, max_length=MOST_LABELS)] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels or ())

    @model_validator(mode="after")
    def _distinct_labels(self) -> Self:
        labels = self.labels or []
        if any(present(label) is None for label in labels):
            raise ValueError("labels: expected none that is empty: a row with such a cell has no label")
        if len(set(labels)) != len(labels):
            raise ValueError(f"labels: expected each once, got {', '.join(labels)}")
        return self


class DeclaredLabels(LabelledKeys):
    """A site's keys of data that have labels."""

    @model_validator(mode="after")
    def _declared(self) -> Self:
        if self.label is None or self.labels is None:
            raise ValueError("labels: expected label and labels")
        return self


def refuses_dealing(job: Job, section: LabelledKeys, *, task: str, have: str) -> str | None:
    """Why a job does not go with examples that ``have`` other than one label each; or None."""
    if section.label is not None and section.labels is None:
        return (
            "data.labels: expected the list of labels: what a model should tell apart must not depend "
            "on which rows there are"
        )
    if isinstance(job.federation.partition, Dirichlet):
        return (
            'federation.partition: expected "iid" or a column: a dirichlet deals out texts with one '
            f'label each, and with task="{task}" they {have}'
        )
    return None


def refuses_labels(job: Job, section: LabelledKeys, *, task: str) -> str | None:
    """Why a job says too little of the labels that its ``task`` needs, naming the key; or None.

    Private data may not be what tells them.
    """
    if section.label is None:
        return f'data.label: expected a column name for task="{task}"'
    if section.labels is None and job.privacy.protects:
        return (
            "data.labels: expected the list of labels: reading it off private data would tell a label "
            "that only one example has"
        )
    return None
