"""Events by account: whether an account's last event is one to stop, by it and those before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn
from protocol.plain_text import Word
from tasks.data.event_columns import Account, EventColumns, read_accounts
from tasks.data.rows import Rows, present
from tasks.label_outcome import (
    AUC,
    BALANCED_ACCURACY,
    BRIER,
    CALIBRATION,
    MACRO_F1,
    focal,
    scores_by_label,
)
from tasks.labelled_keys import DeclaredLabels
from tasks.measures import ACCURACY, LOSS, Measure
from tasks.network_task import NetworkTask
from tasks.tabular import TabularKeys
from tasks.task import Outcome, Units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_MOST_NUMBERS = 100_000  # of an account
_WIDTH, _HEADS = 32, 4  # of the network


class EventKeys(TabularKeys):
    """The columns of a table with a row an event: whose it is, when, and what is known of it."""

    entity: Word
    time: Word
    usual_gap: Annotated[float, Field(ge=1e-9, le=1e12)] = Field(
        86_400.0, description="a usual time between events, in seconds where times are days or moments"
    )
    told_after: list[Word] = Field(
        default_factory=list,
        max_length=1000,
        description="columns that are known only after an event: not read of the last one",
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        named = [self.entity, self.time, *([self.label] if self.label else [])]
        twice = sorted({*named} & {*self.numbers, *self.categories}) or sorted(
            {name for name in named if named.count(name) > 1}
        )
        if twice:
            raise ValueError(
                f"{twice[0]}: expected a column to be one of entity, time, label, a number and a category"
            )
        unknown = sorted({*self.told_after} - {*self.numbers, *self.categories})
        if unknown:
            raise ValueError(f"told_after: expected columns in numbers or categories, got {unknown[0]!r}")
        return self


class EventSection(EventKeys):
    """A job's keys: of an account, its last ``length`` events are read; ``focal`` is the loss's γ."""

    length: Annotated[int, Field(ge=1, le=10_000)] = 20
    focal: Annotated[float, Field(ge=0, le=10)] = 2.0

    @property
    def reader(self) -> EventColumns:
        """The columns as a network reads them."""
        return _reader(self, length=self.length)

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if self.length * self.reader.shape[0] > _MOST_NUMBERS:
            raise ValueError(
                f"length: expected at most {_MOST_NUMBERS} numbers an account, of all its events"
            )
        return self


class EventColumnKeys(EventKeys, DeclaredLabels):
    """A site's keys: events with labels."""


def recall_at(sums: Mapping[str, float], *, alarms: float) -> float:
    """The share of the last label's examples that are among those with its highest scores.

    Of all examples a share of ``alarms`` is looked at; of equal scores at its end, as many as fit. 0
    without any example of the label.
    """
    *_, scores = scores_by_label(sums)
    total = sum(map(sum, scores.values()))
    having = sum(own for _, own in scores.values())
    left, found = alarms * total, 0.0
    for step in sorted(scores, reverse=True):
        without, own = scores[step]
        share = min(1.0, left / (without + own))
        found, left = found + share * own, left - share * (without + own)
    return found / having if having else 0.0


def _recall_measure(percent: int) -> Measure:
    return Measure(
        name=f"recall_at_{percent}",
        title=f"recall at {percent} % alarms",
        of=lambda sums: recall_at(sums, alarms=percent / 100),
        share=True,
    )


class EventSequence(NetworkTask):
    """An account's events, for a small network of attention that is drawn and trained whole.

    The unit is the account: all of its events are one example, and what is promised is so for all of them.
    """

    name = "event-sequence"
    about = "which of a few labels an account's last event has, by it and those before"
    units = Units(example="account", size="accounts")
    measures = (
        AUC,
        _recall_measure(1),
        _recall_measure(5),
        ACCURACY,
        BALANCED_ACCURACY,
        MACRO_F1,
        BRIER,
        CALIBRATION,
        LOSS,
    )
    Section: type[EventSection] = EventSection
    Columns: type[EventKeys] = EventColumnKeys

    def refuses(self, job: Job, section: EventSection) -> str | None:
        """Sites by a column would need one value an account, and a table has one a row."""
        if isinstance(job.federation.partition, ByColumn):
            return f'federation.partition: expected "iid" or a dirichlet with task="{self.name}"'
        return super().refuses(job, section)

    def read(self, data: SourceKeys, columns: EventKeys) -> Rows:
        """Each account's events, in order of the accounts' first rows, and the label of its last one.

        Rows without an account or a time are left out. Raises DataError if no account is there.
        """
        from tasks.data.read_table import read_table

        features, label = columns.features, columns.label
        names = [columns.entity, columns.time, *features.names, *([label] if label else [])]
        table = read_table(data, columns=names)
        cells = {
            name: table.column(name, key="data.numbers" if name in columns.numbers else "data.categories")
            for name in features.names
        }
        labels = table.column(label, key="data.label") if label else None
        found = read_accounts(
            names=features.names,
            accounts=table.column(columns.entity, key="data.entity"),
            times=table.column(columns.time, key="data.time"),
            cells=features.read(cells),
            labels=None if labels is None else tuple(map(present, labels)),
        )
        if not found.events:
            raise DataError(f"data.entity={columns.entity!r}: no row has a value there")
        left_out = f"{found.left_out} rows have no account or no time, and are left out"
        return Rows(
            contents=found.events,
            labels=found.labels,
            remarks=(*((left_out,) * (found.left_out > 0)), *features.remarks(cells)),
        )

    def digest(self, content: Account | None) -> bytes:
        """SHA-256 of the account's name, 32 bytes: it has one budget, whatever events are added to it."""
        return hashlib.sha256(json.dumps(content and content[0]).encode()).digest()

    def load(
        self,
        job: Job,
        section: EventSection,
        *,
        labels: tuple[str, ...],
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The network with as many inputs as the columns make, drawn from ``seeds.adapter``."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.event_network import EventNetwork

        reader = section.reader
        return load_drawn(
            lambda: EventNetwork(inputs=reader.shape[0], labels=list(labels), width=_WIDTH, heads=_HEADS),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: EventKeys) -> EventColumns:  # noqa: ARG002
        """The columns as the custodian declares them: no model says more."""
        return _reader(columns, length=1)

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        """Accounts with any events, of which the last is there."""
        from tasks.model.event_network import AGE, THERE

        values = super().made_up_values(random, shape)
        there = random.integers(0, 2, (shape[0], shape[2])).astype("float32")
        there[:, -1] = 1.0
        values *= there[:, None]
        values[:, THERE], values[:, AGE] = there, abs(values[:, AGE])
        return values

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Focal loss."""
        found = super().forward(adapted, batch)
        return replace(found, losses=focal(found.losses, adapted.spec.data["focal"]))


def _reader(keys: EventKeys, *, length: int) -> EventColumns:
    return EventColumns(
        features=keys.features,
        told_after=frozenset(keys.told_after),
        usual_gap=keys.usual_gap,
        length=length,
    )


TASK = EventSequence()
