"""A task whose rows come in groups: a group is one example, of one gradient, however many rows it has."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.data.rows import NO_CONTENT, Rows
from tasks.task import Encoded, Outcome, RowTask, Task, Units

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.data_section import SourceKeys
    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.data.folded_examples import FoldedExamples
    from tasks.data.row_groups import Group
    from tasks.data.shapes import Sizes
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

log = logging.getLogger("confide.data")


@dataclass(frozen=True, kw_only=True)
class GroupOutcome(Outcome):
    """A group's loss is the mean of its rows'; ``rows`` are these, which measures are made of."""

    rows: Outcome

    def sums(self) -> dict[str, float]:
        return self.rows.sums()


class GroupTask:
    """The same task on groups of at most ``most`` rows: see ``Task``.

    Of a group's rows one gradient is clipped, that of the mean of their losses. So whoever has all rows of
    a group made blank, and the group with them, moves a step's sum by the clipping norm at most. It is no
    promise for k people that share a group, nor for one who stands in two.

    Source: McMahan et al. 2018 (arXiv:1710.06963), for one bounded contribution a person.
    """

    def __init__(self, of_rows: Task, *, most: int) -> None:
        self.of_rows, self.most = of_rows, most
        self.name, self.about = of_rows.name, of_rows.about
        self.units = Units(example="group", size=of_rows.units.size)
        self.labelled, self.headed = of_rows.labelled, of_rows.headed
        self.pretrained, self.drawn = of_rows.pretrained, of_rows.drawn
        self.measures = of_rows.measures
        self.Section, self.Columns = of_rows.Section, of_rows.Columns

    def refuses(self, job: Job, section: Any) -> str | None:
        """What the task refuses, and groups of what are no rows of a table."""
        return self.of_rows.refuses(job, section) or refuses_groups(self.of_rows, section)

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """The rows, one by one: ``group`` makes groups of them."""
        return self.of_rows.read(data, columns)

    def group(self, rows: Rows, names: Sequence[str | None]) -> Rows:
        """The rows as groups, by whose each is: see ``in_groups``."""
        from tasks.data.row_groups import in_groups

        return in_groups(rows, names, most=self.most, digest=self.of_rows.digest)

    def digest(self, content: Group | None) -> bytes:
        """SHA-256 of the group's name, 32 bytes; of none, that of no name."""
        from tasks.data.row_groups import digest_group

        return digest_group(content.name if content else "")

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The task's own model."""
        return self.of_rows.load(job, section, labels=labels, device=device)

    def open_reader(self, source: str, columns: Any) -> Any:
        """The task's own reader."""
        return self.of_rows.open_reader(source, columns)

    def sizes(self, base: BaseModel, section: Any) -> Sizes:
        """How large a row may be, and so a group, whose size is its largest row's."""
        return self.of_rows.sizes(base, section)

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each group by itself: its rows as the task encodes them, without those that are blank."""
        import numpy as np

        from tasks.data.folded_examples import fold

        groups: list[Group | None] = list(rows.contents)
        # Where no group has a row there is a blank one: a task need not encode nothing.
        contents = [content for group in groups if group for content in group.contents] or [None]
        labels_of = [label for group in groups if group for label in group.labels] or [None]
        flat = Rows(contents=tuple(contents), labels=None if rows.labels is None else tuple(labels_of))
        found = self.of_rows.encode(reader, flat, labels=labels)
        for why, places in found.blank.items():
            log.warning("%d rows of groups cannot be used, and are left out: %s", len(places), why)
        counts = np.array([len(group.contents) if group else 0 for group in groups], np.int64)
        folded = fold(found.examples, counts, together=self.most)
        blank = tuple(map(int, np.flatnonzero(~folded.there.any(1))))
        return Encoded(examples=folded, blank={NO_CONTENT: blank} if blank else {})

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> FoldedExamples:
        """Groups whose rows are all as large, the first of them there and others by a coin."""
        import numpy as np

        from tasks.data.folded_examples import FoldedExamples

        rows = self.of_rows.made_up(adapted, random, np.repeat(sizes, self.most))
        there = random.integers(0, 2, (len(sizes), self.most)).astype(bool)
        there[:, 0] = True
        places = np.arange(len(sizes) * self.most).reshape(-1, self.most)
        return FoldedExamples(rows=rows, places=np.where(there, places, places[:, :1]), there=there)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> GroupOutcome:
        """The mean of each group's rows' losses; what was right and counted are sums over its rows."""
        from tasks.data.folded_examples import THERE

        there = batch.inputs[THERE]
        flat = {name: tensor.flatten(0, 1) for name, tensor in batch.inputs.items() if name != THERE}
        rows = self.of_rows.forward(adapted, replace(batch, inputs=flat, rows_an_example=1))
        # No row of a blank group is there: its loss is nobody's, and must be a number.
        losses = (rows.losses.reshape(there.shape) * there).sum(1) / there.sum(1).clamp(min=1)
        counts = there.long()
        return GroupOutcome(
            losses=losses,
            correct=(rows.correct.reshape(there.shape) * counts).sum(1),
            counted=(rows.counted.reshape(there.shape) * counts).sum(1),
            rows=_only(rows, there.flatten() > 0),
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """The task's own export."""
        self.of_rows.export(merged, base, folder)


def refuses_groups(task: Task, section: Any) -> str | None:
    """Why rows of a task make no groups, naming the key; None if they do."""
    if isinstance(task, RowTask) and task.one_row_an_example(section):
        return None
    return (
        f'privacy.unit: expected "example" or "site" with task="{task.name}" as it reads these data, got '
        '"group": groups are of rows of one table, each of which is one example'
    )


def ledger_digests(task: Task, contents: Iterable[Any]) -> tuple[bytes, ...]:
    """What a ledger knows examples by: each by itself, and, of groups, each row that counts, too.

    So a run of groups and one of their rows, wherever these stand, spend from one budget.
    """
    held = list(contents)
    own = map(task.digest, held)
    if not isinstance(task, GroupTask):
        return tuple(own)
    rows = (task.of_rows.digest(content) for group in held if group for content in group.contents)
    return (*own, *rows)


def _only(rows: Outcome, chosen: torch.Tensor) -> Outcome:
    """The outcome of some of the rows, bool[rows]; what has several answers a row keeps all of a row's."""
    import torch

    parts = {}
    for field in dataclasses.fields(rows):
        value = getattr(rows, field.name)
        if isinstance(value, torch.Tensor):
            several = len(value) // len(chosen)
            parts[field.name] = value[chosen.repeat_interleave(several)]
    return replace(rows, **parts)
