"""Series of numbers: what the next ones of a channel will be, by what all channels did before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn, Dirichlet
from protocol.plain_text import Word
from tasks.data.rows import NO_CONTENT, Rows
from tasks.data.series_columns import Series
from tasks.data.series_windows import SeriesWindows
from tasks.forecast_outcome import COVERAGE, MEAN_ERROR, RELATIVE_ERROR, WITHIN, ForecastOutcome
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
from tasks.task import Encoded, Units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.data.grouped_examples import GroupedExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_NOTHING_TOLD = "no number to forecast, or none before it"
# Of the convolutions: filters, and parts of a context for them.
_WIDTH, _PARTS = 16, 4
_PLACES = 32  # at most, at which the last layer sees the context itself


class ForecastKeys(MomentKeys):
    """The columns of series, of which the channel ``target`` is forecast."""

    target: Word

    @model_validator(mode="after")
    def _a_channel(self) -> Self:
        if self.target not in self.channels:
            raise ValueError(f"target: expected one of the channels, got {self.target!r}")
        return self


class ForecastSection(ForecastKeys):
    """A job's keys: from ``context`` moments the next ``horizon`` are told, in the last ``windows``."""

    context: Annotated[int, Field(ge=2, le=100_000)]
    horizon: Annotated[int, Field(ge=1, le=1000)]
    windows: Annotated[int, Field(ge=1, le=64, description="of a series, its last ones")] = 1
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        None, min_length=1, max_length=20, description="what is told; unset: the mean"
    )
    network: Network = "convolutions"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_network(self.network, self.channels)
        told = self.quantiles or [0.5]
        if sorted(set(told)) != told or 0.5 not in told:
            raise ValueError("quantiles: expected them to rise, and 0.5 among them, which is the forecast")
        if (self.context + self.horizon) * len(self.channels) * self.windows > MOST_NUMBERS:
            raise ValueError(
                f"context: expected at most {MOST_NUMBERS} numbers a series, of all its windows and "
                "channels together"
            )
        return self

    @property
    def reader(self) -> SeriesWindows:
        """The channels as a network reads them."""
        return SeriesWindows(
            series=self.columns(self.context + self.horizon),
            target=self.target,
            context=self.context,
            horizon=self.horizon,
            windows=self.windows,
        )


class SeriesForecast(NetworkTask):
    """Series for a small network that is drawn and trained whole; the unit is the entity.

    All windows of an entity are one example, with one loss and one gradient: what is promised, is promised
    for all rows of it together. The network begins as the naive forecast, which is the last known number.
    """

    name = "series-forecast"
    about = "the next numbers of an entity's series"
    units = Units(example="series", size="series")
    labelled, headed = False, False
    measures = (RELATIVE_ERROR, MEAN_ERROR, COVERAGE, WITHIN)
    Section: type[ForecastSection] = ForecastSection
    Columns: type[ForecastKeys] = ForecastKeys

    def refuses(self, job: Job, section: ForecastSection) -> str | None:  # noqa: ARG002
        """Sites by a column would need one value an entity, and by labels some labels."""
        if isinstance(job.federation.partition, ByColumn | Dirichlet):
            return f'federation.partition: expected "iid" with task="{self.name}"'
        return self.refuses_model(job)

    def read(self, data: SourceKeys, columns: ForecastKeys) -> Rows:
        """A series for each entity, in order of their first rows.

        Rows without an entity or a time are left out. Raises DataError if no entity is there.
        """
        return read_series(data, columns, label=None)

    def digest(self, content: Series | None) -> bytes:
        """SHA-256 of the moments in order of time, 32 bytes; the entity's name does not count."""
        return digest_series(content)

    def load(
        self,
        job: Job,
        section: ForecastSection,
        *,
        labels: tuple[str, ...],  # noqa: ARG002
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The network with as many channels as the job names, drawn from ``seeds.adapter``."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.series_network import BodyForecast, ForecastNetwork

        reader, network = section.reader, section.network
        told: dict[str, Any] = {
            "channels": len(section.channels),
            "channel": reader.channel,
            "range": section.channels[section.target],
            "horizon": section.horizon,
            "levels": [f"{quantile:g}" for quantile in section.quantiles or ()] or ["mean"],
            "places": min(section.context, _PLACES),
        }

        def make() -> ForecastNetwork | BodyForecast:
            if network == "convolutions":
                return ForecastNetwork(**told, width=_WIDTH, parts=_PARTS)
            return BodyForecast(network=network, length=section.context, sizes=SIZES[network], **told)

        return load_drawn(
            make,
            seed=job.seeds.adapter,
            last="forecast",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: ForecastKeys) -> SeriesWindows:  # noqa: ARG002
        """The channels as the custodian declares them, in windows as short as any: no model says more."""
        return SeriesWindows(
            series=columns.columns(3), target=columns.target, context=2, horizon=1, windows=1
        )

    def encode(  # type: ignore[override]  # its reader makes several arrays
        self,
        reader: SeriesWindows,
        rows: Rows,
        *,
        labels: tuple[str, ...],  # noqa: ARG002
    ) -> Encoded:
        """Each series by itself, as its last windows; blank without a number to forecast from another."""
        import numpy as np

        arrays = reader.encode(rows.contents)
        empty = np.array([content is None for content in rows.contents], bool)
        told = arrays["told"].reshape(len(rows), reader.windows * reader.horizon).max(1) > 0
        why = {NO_CONTENT: empty, _NOTHING_TOLD: ~empty & ~told}
        return Encoded(
            examples=_grouped(arrays, blank=~told, together=reader.windows),
            blank={reason: tuple(map(int, np.flatnonzero(at))) for reason, at in why.items() if at.any()},
        )

    def made_up(  # type: ignore[override]  # several rows an example
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> GroupedExamples:
        """Series of any numbers in the range, all of which are there."""
        reader: SeriesWindows = adapted.base.reader
        rows = len(sizes) * reader.windows
        values = self.made_up_values(random, (rows, *reader.shape))
        values[:, len(reader.series.channels) :] = 1.0
        following = self.made_up_values(random, (rows, reader.horizon))
        arrays = {"values": values, "next": following, "told": following * 0 + 1}
        return _grouped(arrays, blank=sizes == 0, together=reader.windows)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> ForecastOutcome:
        """The error of the forecasts, over all numbers of an example's windows."""
        values = batch.inputs["values"]
        network, count = adapted.peft.get_base_model(), len(values)
        flat = values.flatten(0, 1)
        with adapted.device.autocast():
            told = adapted.peft(flat).float()
        following = network.in_unit(batch.inputs["next"]).reshape(count, -1)
        last = network.in_unit(network.last_known(flat)).expand(-1, network.horizon)
        return ForecastOutcome.of(
            told.reshape(count, following.shape[1], -1),
            following,
            batch.inputs["told"].reshape(count, -1),
            last=last.reshape(count, -1),
            width=network.high - network.low,
            quantiles=adapted.spec.data["quantiles"] or (),
        )


def _grouped(
    arrays: dict[str, NDArray[np.float32]], *, blank: NDArray[np.bool_], together: int
) -> GroupedExamples:
    """Rows as examples of so many each, which are blank as a whole or not."""
    import numpy as np

    from tasks.data.dense_examples import DenseExamples
    from tasks.data.grouped_examples import GroupedExamples

    rows = DenseExamples(arrays=arrays, labels=None, blank=np.repeat(blank, together))
    return GroupedExamples(rows=rows, together=together)


TASK = SeriesForecast()
