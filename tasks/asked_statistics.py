"""The histograms that a job's ``[statistics]`` asks for, and which bin of each an example is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from protocol.job.job import Dirichlet
from protocol.plain_text import quoted
from tasks.data.feature_columns import FeatureColumns, number_in
from tasks.task import RowTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from protocol.job.statistics_section import StatisticsSection
    from tasks.data.rows import Rows
    from tasks.task import Task, TaskKeys

_NONE = FeatureColumns(numbers={}, categories={})
Kind = Literal["labels", "lengths", "numbers", "categories"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One histogram: of the labels, of the lengths, or of a ``column``.

    Of ``names`` each has a bin, in order. Numbers have a bin below the first of the ``cuts``, one from each
    to the next, and one from the last on. A column of categories has two more bins, for other ones and for
    missing ones, and one of numbers has one more, for missing ones. All of it is public.
    """

    kind: Kind
    column: str = ""
    names: tuple[str, ...] = ()
    cuts: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """The number of bins."""
        if self.kind == "labels":
            return len(self.names)
        if self.kind == "categories":
            return len(self.names) + 2
        return len(self.cuts) + 1 + (self.kind == "numbers")


def asked_of(statistics: StatisticsSection, section: TaskKeys) -> tuple[Asked, ...]:
    """The histograms in order, by what the job says and nothing else."""
    found: list[Asked] = []
    if statistics.labels:
        found.append(Asked(kind="labels", names=section.classes))
    if statistics.lengths is not None:
        found.append(Asked(kind="lengths", cuts=statistics.lengths.cuts))
    found += [
        Asked(kind="numbers", column=column, cuts=bins.cuts)
        for column, bins in sorted(statistics.numbers.items())
    ]
    found += [
        Asked(kind="categories", column=column, names=_features(section).categories[column])
        for column in sorted(statistics.categories)
    ]
    return tuple(found)


def refuses_statistics(job: Job, task: Task, section: TaskKeys) -> str | None:
    """Why a job's statistics are none for its task, naming the key; None if they fit, or it has none."""
    asked = job.statistics
    if asked is None:
        return None
    if asked.labels and not section.classes:
        return (
            "statistics.labels: expected the list of labels in data.labels: those that the data have would "
            "tell of the data"
        )
    if asked.labels and not _has_one_label(job, task, section):
        return f'statistics.labels: expected false with task="{task.name}", whose examples have several'
    if asked.lengths is not None and task.units.size != "tokens":
        return (
            f'statistics.lengths: expected none with task="{task.name}": its examples are counted in '
            f"{task.units.size}, and not in tokens"
        )
    # An account has many rows, and so no one place in a histogram of its cells.
    rows = isinstance(task, RowTask) and task.one_row_an_example(section)
    declared = _features(section) if rows else _NONE
    for key, columns in (("numbers", asked.numbers), ("categories", asked.categories)):
        unknown = sorted(set(columns) - set(getattr(declared, key)))
        if unknown:
            return (
                f"statistics.{key}: expected columns that data.{key} declares, as sites read no others, "
                f"got {quoted(unknown[0])}"
            )
    return None


def _features(section: TaskKeys) -> FeatureColumns:
    """The columns that a table's keys declare; none for other tasks."""
    found = getattr(section, "features", None)
    return found if isinstance(found, FeatureColumns) else _NONE


def _has_one_label(job: Job, task: Task, section: TaskKeys) -> bool:
    """Whether each example has one label, as a task says that lets labels be dealt out."""
    dealt = job.federation.model_copy(update={"partition": Dirichlet(dirichlet=1.0)})
    return task.refuses(job.model_copy(update={"federation": dealt}), section) is None


def places_of(
    asked: Sequence[Asked], rows: Rows, *, reader: Any, task: Task, labels: tuple[str, ...]
) -> NDArray[np.int64]:
    """The bin of each example in each histogram: int64[n, k].

    ``reader`` is what the task reads rows with. A row that a training would take for a blank example is
    nowhere, so that neighbours by zeroing out differ in that one row. What a row holds decides about its
    own places alone.
    """
    import numpy as np

    from privacy.mechanisms.histograms import NOWHERE

    sizes = task.encode(reader, rows, labels=labels).examples.sizes
    places = np.full((len(rows), len(asked)), NOWHERE, np.int64)
    for number, histogram in enumerate(asked):
        places[:, number] = _places(histogram, rows, sizes)
    places[sizes == 0] = NOWHERE
    return places


def _places(asked: Asked, rows: Rows, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """One histogram's, int64[n], of rows that may be blank."""
    import numpy as np

    from privacy.mechanisms.histograms import NOWHERE

    if asked.kind == "lengths":
        return np.searchsorted(asked.cuts, sizes, side="right").astype(np.int64)
    if asked.kind == "labels":
        known = {label: place for place, label in enumerate(asked.names)}
        return np.array([known.get(label or "", NOWHERE) for label in rows.labels or ()], np.int64)
    cells = [dict(content or ()).get(asked.column, "") for content in rows.contents]
    if asked.kind == "categories":
        known = {name: place for place, name in enumerate(asked.names)} | {"": len(asked.names) + 1}
        return np.array([known.get(cell, len(asked.names)) for cell in cells], np.int64)
    missing = len(asked.cuts) + 1
    # A column that the custodian declares otherwise holds what it likes: no cell may raise.
    numbers = [number_in(cell) for cell in cells]
    found = np.array([math.nan if number is None else number for number in numbers], np.float64)
    return np.where(np.isnan(found), missing, np.searchsorted(asked.cuts, found, side="right"))
