"""Series of numbers: which of a few labels an entity has, by what its channels do over time."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn
from protocol.plain_text import Word
from tasks.data.rows import Rows, present
from tasks.data.series_columns import Series, SeriesColumns, read_entities
from tasks.labelled_keys import DeclaredLabels, LabelledKeys
from tasks.network_task import NetworkTask, Range, check_ranges
from tasks.task import Units

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_MOST_NUMBERS = 100_000  # of a series
_WIDTH, _PARTS = 32, 8  # of the network: filters, and parts of a series


class SeriesKeys(LabelledKeys):
    """The columns of a table with a row a moment: whose it is, when, and what each channel measured."""

    entity: Word
    time: Word
    channels: dict[Word, Range] = Field(
        min_length=1, max_length=1000, description="by column, from where to where it goes"
    )

    @model_validator(mode="after")
    def _columns(self) -> Self:
        check_ranges("channels", self.channels)
        named = [self.entity, self.time, *self.channels, *([self.label] if self.label else [])]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                f"{twice[0]}: expected a column to be one of entity, time, label and a channel"
            )
        return self


class SeriesSection(SeriesKeys):
    """A job's keys: longer series are cut to their first ``length`` moments."""

    length: Annotated[int, Field(ge=_PARTS, le=100_000)]

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if self.length * len(self.channels) > _MOST_NUMBERS:
            raise ValueError(f"length: expected at most {_MOST_NUMBERS} numbers in all channels together")
        return self

    @property
    def reader(self) -> SeriesColumns:
        """The channels as a network reads them."""
        channels = {name: (low, high) for name, (low, high) in self.channels.items()}
        return SeriesColumns(channels=channels, length=self.length)


class SeriesColumnKeys(SeriesKeys, DeclaredLabels):
    """A site's keys: series with labels."""


class SeriesClassification(NetworkTask):
    """Series for a small network of convolutions that is drawn and trained whole; the unit is the entity.

    All rows of an entity are one example: what is promised, is promised for all of them together.
    """

    name = "series-classification"
    about = "which of a few labels an entity's series of numbers has"
    units = Units(example="series", size="series")
    Section: type[SeriesSection] = SeriesSection
    Columns: type[SeriesKeys] = SeriesColumnKeys

    def refuses(self, job: Job, section: SeriesSection) -> str | None:
        """Sites by a column would need one value an entity, and a table has one a row."""
        if isinstance(job.federation.partition, ByColumn):
            return f'federation.partition: expected "iid" or a dirichlet with task="{self.name}"'
        return super().refuses(job, section)

    def read(self, data: SourceKeys, columns: SeriesKeys) -> Rows:
        """A series for each entity, in order of their first rows, and its label.

        Rows without an entity or a time are left out. Raises DataError if no entity is there.
        """
        from tasks.data.read_table import read_table

        label = columns.label
        names = [columns.entity, columns.time, *columns.channels, *([label] if label else [])]
        table = read_table(data, columns=names)
        labels = table.column(label, key="data.label") if label else None
        found = read_entities(
            entities=table.column(columns.entity, key="data.entity"),
            times=table.column(columns.time, key="data.time"),
            channels={name: table.column(name, key="data.channels") for name in columns.channels},
            labels=None if labels is None else tuple(map(present, labels)),
        )
        if not found.series:
            raise DataError(f"data.entity={columns.entity!r}: no row has a value there")
        left_out = f"{found.left_out} rows have no entity or no time, and are left out"
        return Rows(contents=found.series, labels=found.labels, remarks=(left_out,) * (found.left_out > 0))

    def digest(self, content: Series | None) -> bytes:
        """SHA-256 of the moments in order of time, 32 bytes; the entity's name does not count."""
        return hashlib.sha256(json.dumps(content).encode()).digest()

    def load(
        self,
        job: Job,
        section: SeriesSection,
        *,
        labels: tuple[str, ...],
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The network with as many channels as the job names, drawn from ``seeds.adapter``."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.series_network import SeriesNetwork

        reader = section.reader
        return load_drawn(
            lambda: SeriesNetwork(inputs=reader.shape[0], labels=list(labels), width=_WIDTH, parts=_PARTS),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: SeriesKeys) -> SeriesColumns:  # noqa: ARG002
        """The channels as the custodian declares them, uncut: no model says more."""
        channels = {name: (low, high) for name, (low, high) in columns.channels.items()}
        return SeriesColumns(channels=channels, length=_PARTS)


TASK = SeriesClassification()
