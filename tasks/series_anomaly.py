"""Series of numbers: which are unlike the usual ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.anomaly_task import AnomalyTask, FeatureKeys
from tasks.data.series_columns import Series, SeriesColumns
from tasks.series_classification import CutSeriesSection, SeriesClassification, SeriesKeys

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_PARTS = 32  # of a series, at most
_SCALE = 0.25  # of the length that a series of ones has


@dataclass(frozen=True, kw_only=True)
class UsualSeries(SeriesColumns):
    """Series in which a moment that is there has 0 beside its number, and one that is missing has -1.

    So series that are whole differ in their numbers alone, and their features are as long as these.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            *super().inputs[: len(self.channels)],
            *(f"-1 where {name} is missing" for name in self.names),
        )

    def encode(self, series: Iterable[Series | None]) -> NDArray[np.float32]:
        found = super().encode(series)
        found[:, len(self.channels) :] -= 1.0
        return found


class UsualSection(FeatureKeys, CutSeriesSection):
    """A job's keys: of a series, its first ``length`` moments are seen, in ``features`` directions."""

    @property
    def reader(self) -> UsualSeries:
        """The channels as a network reads them."""
        found = self.columns(self.length)
        return UsualSeries(channels=found.channels, length=found.length)


class SeriesAnomaly(AnomalyTask, SeriesClassification):
    """Series against a Gaussian of usual ones; the unit is the entity, with all its rows."""

    name = "series-anomaly"
    about = "how unlike the usual ones an entity's series of numbers is"
    Section: type[UsualSection] = UsualSection

    def load(  # type: ignore[override]  # its section has more keys
        self,
        job: Job,
        section: UsualSection,
        *,
        labels: tuple[str, ...],
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The projection of as many channels as the job names, drawn from ``seeds.adapter``."""
        parts = min(section.length, _PARTS)
        scale = _SCALE * (len(section.channels) * parts) ** 0.5
        return self.fit(
            job, section.reader, labels=labels, parts=[parts], features=section.features, scale=scale
        )

    def open_reader(self, source: str, columns: SeriesKeys) -> UsualSeries:
        """The channels as the custodian declares them, uncut: no model says more."""
        found = super().open_reader(source, columns)
        return UsualSeries(channels=found.channels, length=found.length)


TASK = SeriesAnomaly()
