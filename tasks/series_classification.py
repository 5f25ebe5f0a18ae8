"""Series of numbers: which of a few labels an entity has, by what its channels do over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn
from tasks.data.rows import Rows
from tasks.data.series_columns import Series, SeriesColumns
from tasks.labelled_keys import DeclaredLabels, LabelledKeys
from tasks.network_task import NetworkTask
from tasks.series_rows import (
    MOST_NUMBERS,
    SIZES,
    MomentKeys,
    Network,
    check_network,
    digest_series,
    read_series,
)
from tasks.task import Units

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH, _PARTS = 32, 8  # of the convolutions: filters, and parts of a series


class SeriesKeys(MomentKeys, LabelledKeys):
    """The columns of series, and of their labels."""


class CutSeriesSection(SeriesKeys):
    """Longer series are cut to their first ``length`` moments."""

    length: Annotated[int, Field(ge=_PARTS, le=100_000)]

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if self.length * len(self.channels) > MOST_NUMBERS:
            raise ValueError(f"length: expected at most {MOST_NUMBERS} numbers in all channels together")
        return self

    @property
    def reader(self) -> SeriesColumns:
        """The channels as a network reads them."""
        return self.columns(self.length)


class SeriesSection(CutSeriesSection):
    """A job's keys: how series are cut, and which network is drawn."""

    network: Network = "convolutions"

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        check_network(self.network, self.channels)
        return self


class SeriesColumnKeys(SeriesKeys, DeclaredLabels):
    """A site's keys: series with labels."""


class SeriesClassification(NetworkTask):
    """Series for a small network that is drawn and trained whole; the unit is the entity.

    All rows of an entity are one example: what is promised, is promised for all of them together.
    """

    name = "series-classification"
    about = "which of a few labels an entity's series of numbers has"
    units = Units(example="series", size="series")
    Section: type[CutSeriesSection] = SeriesSection
    Columns: type[SeriesKeys] = SeriesColumnKeys

    def refuses(self, job: Job, section: CutSeriesSection) -> str | None:
        """Sites by a column would need one value an entity, and a table has one a row."""
        if isinstance(job.federation.partition, ByColumn):
            return f'federation.partition: expected "iid" or a dirichlet with task="{self.name}"'
        return super().refuses(job, section)

    def read(self, data: SourceKeys, columns: SeriesKeys) -> Rows:
        """A series for each entity, in order of their first rows, and its label.

        Rows without an entity or a time are left out. Raises DataError if no entity is there.
        """
        return read_series(data, columns, label=columns.label)

    def digest(self, content: Series | None) -> bytes:
        """SHA-256 of the moments in order of time, 32 bytes; the entity's name does not count."""
        return digest_series(content)

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
        from tasks.model.series_network import BodyNetwork, SeriesNetwork

        reader, network = section.reader, section.network

        def make() -> SeriesNetwork | BodyNetwork:
            if network == "convolutions":
                return SeriesNetwork(
                    inputs=reader.shape[0], labels=list(labels), width=_WIDTH, parts=_PARTS
                )
            return BodyNetwork(
                network=network,
                channels=len(section.channels),
                length=section.length,
                sizes=SIZES[network],
                labels=list(labels),
            )

        return load_drawn(
            make,
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: SeriesKeys) -> SeriesColumns:  # noqa: ARG002
        """The channels as the custodian declares them, uncut: no model says more."""
        return columns.columns(_PARTS)


TASK = SeriesClassification()
