"""A site's data sets: read as ``site.toml`` says, whatever single rows hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.custody.gate import let_in
from client.custody.site_file import DataSource
from privacy.errors import DataError, ModelError
from protocol.job.data_section import JOINT
from tasks.data.examples import Examples
from tasks.data.row_groups import digest_group, read_groups
from tasks.data.rows import NO_CONTENT, NO_LABEL, Rows, joined, labels_in, once
from tasks.group_task import GroupTask, refuses_groups
from tasks.model.adapted_model import AdaptedModel
from tasks.registry import find_task
from tasks.task import Task, TaskKeys

log = logging.getLogger("confide.agent")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a site: its rows, what each is known by, and the task and keys that read them.

    ``groups`` says whose each row is, None for nobody's; without a column of groups it is None. ``members``
    are what a ledger knows the data by, whatever a run's unit is: digests of the rows, and of groups, if
    there are any. ``parts`` is as in ``Materials``.
    """

    alias: str
    task: Task
    columns: TaskKeys
    rows: Rows
    digests: tuple[bytes, ...]
    members: tuple[bytes, ...]
    groups: tuple[str | None, ...] | None = None
    parts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the custodian declares, in the order of the head's outputs."""
        return self.columns.classes

    def labels_for(self, task: Task) -> tuple[str, ...]:
        """What a model of this task tells apart here."""
        return self.labels if task.labelled else ()

    @property
    def blank(self) -> dict[str, tuple[int, ...]]:
        """Rows, from 0, that are blank before a model sees them, by why; labels count if a job has any."""
        contents, faults = self.rows.contents, self.rows.faults
        known = set(self.labels)
        found: dict[str, list[int]] = {}
        for row, content in enumerate(contents):
            if content is None:
                found.setdefault(faults.get(row, NO_CONTENT), []).append(row)
        for row, label in enumerate(self.rows.labels or ()):
            if label is None or not known.issuperset(labels_in(label)):
                found.setdefault(faults.get(row, NO_LABEL) if label is None else NO_LABEL, []).append(row)
        return {why: tuple(dict.fromkeys(rows)) for why, rows in found.items()}

    @property
    def counts(self) -> Counter[str]:
        """How often rows have each label; of those that are declared."""
        known = set(self.labels)
        found = (label for entry in self.rows.labels or () for label in labels_in(entry))
        return Counter(label for label in found if label in known)

    def serves(self, task: Task) -> bool:
        """Whether a task reads rows like these."""
        return task.Columns is self.task.Columns

    def in_groups(self, task: GroupTask) -> DataSet | None:
        """The same data, group by group; None without a column of groups."""
        if self.groups is None:
            return None
        rows = task.group(self.rows, self.groups)
        return replace(self, rows=rows, digests=tuple(map(task.digest, rows.contents)), groups=None)

    def examples(self, adapted: AdaptedModel, *, labels: tuple[str, ...]) -> Examples:
        """As examples for a model, with ``labels`` if its task has any.

        How many are blank, and why, is in the custodian's log and nowhere else.
        """
        found = adapted.task.encode(adapted.base.reader, self.rows, labels=labels)
        for why, rows in found.blank.items():
            log.warning("data.%s: %d rows are blank examples: %s", self.alias, len(rows), why)
        return found.examples


def mixed(sets: Sequence[DataSet]) -> DataSet:
    """The data sets of a mix as one, one after another. They are for one task, and have the same labels.

    What stands in several is an example of the first.
    """
    first = sets[0]
    return replace(
        first,
        alias=JOINT.join(one.alias for one in sets),
        rows=joined(once([one.rows for one in sets], [one.digests for one in sets])),
        digests=tuple(digest for one in sets for digest in one.digests),
        members=tuple(member for one in sets for member in one.members),
        parts=tuple(map(len, sets)),
    )


def read_data_set(alias: str, source: DataSource) -> DataSet:
    """Read a data set as ``site.toml`` says.

    Raises DataError, which is for the custodian alone, if there is none, if no row of it can be used, or if
    the gate's model cannot be loaded.
    """
    task, columns = find_task(source.task), source.columns
    try:
        rows = task.read(source, columns)
        groups = None if source.group is None else _groups_of(task, source, source.group, rows)
    except DataError as error:
        raise DataError(f"[data.{alias}] of site.toml: {error}") from error
    if groups is not None:
        rows = replace(rows, remarks=(*rows.remarks, _about_groups(groups)))
    digests = tuple(task.digest(content) for content in rows.contents)
    try:
        # A row that the gate keeps out stays the example that it is: the ledger knows the same data set.
        passed = let_in(rows, task=task, rules=source.rules)
    except ModelError as error:
        raise DataError(f"[data.{alias}.gate.density] of site.toml: {error}") from error
    names = {name for name in groups or () if name is not None}
    found = DataSet(
        alias=alias,
        task=task,
        columns=columns,
        rows=passed,
        digests=digests,
        members=(*digests, *map(digest_group, sorted(names))),
        groups=groups,
    )
    _check_usable(found)
    return found


def _groups_of(task: Task, source: DataSource, column: str, rows: Rows) -> tuple[str | None, ...]:
    """Whose each row is. Raises DataError where rows of such data make no groups."""
    refused = refuses_groups(task, source.columns)
    if refused is not None:
        raise DataError(f"group={column!r}: {refused}")
    return read_groups(source, column, rows)


def _about_groups(groups: Sequence[str | None]) -> str:
    named = [name for name in groups if name is not None]
    text = f"{len(named)} rows are of {len(set(named))} groups"
    left = len(groups) - len(named)
    return f"{text}; {left} are of none, and runs for groups leave them out" if left else text


def _check_usable(data: DataSet) -> None:
    """Raises DataError if no row can be used, with why the most cannot."""
    blank = data.blank
    if len({row for rows in blank.values() for row in rows}) < len(data):
        return
    why = max(blank, key=lambda reason: len(blank[reason]))
    what = f"labels={', '.join(data.labels)}" if why == NO_LABEL else "contents"
    raise DataError(f"[data.{data.alias}] of site.toml: {what}: no row can be used: {why}")
