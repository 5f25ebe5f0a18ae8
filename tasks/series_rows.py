"""Tables with a row a moment, for all tasks whose example is an entity's series of numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sized
from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.plain_text import Word
from tasks.data.rows import Rows, present
from tasks.data.series_columns import Series, SeriesColumns, read_entities
from tasks.network_task import Range, check_ranges
from tasks.task import TaskKeys

MOST_NUMBERS = 100_000  # of a series
# What finds something in a series over time, as jobs name it, and how large what is no convolution is. A
# longer series is seen as means over so many parts: what it takes is public, and bounded.
_MOST_ATTENDED = 64  # channels, each of which the last layer sees the patches of
Network: TypeAlias = Literal["convolutions", "lstm", "patches"]
SIZES = {
    "lstm": {"width": 16, "steps": 64},
    "patches": {"width": 16, "heads": 4, "layers": 2, "patches": 16, "places": 256},
}


def check_network(network: Network, channels: Sized) -> None:
    """Raises ValueError for more channels than a network is made for."""
    if network == "patches" and len(channels) > _MOST_ATTENDED:
        raise ValueError(
            f'network: expected at most {_MOST_ATTENDED} channels with "patches", got {len(channels)}: the '
            'last layer sees the patches of each; choose "lstm" or "convolutions"'
        )


class MomentKeys(TaskKeys):
    """The columns of a table with a row a moment: whose it is, when, and what each channel measured."""

    entity: Word
    time: Word
    channels: dict[Word, Range] = Field(
        min_length=1, max_length=1000, description="by column, from where to where it goes"
    )

    @model_validator(mode="after")
    def _columns(self) -> Self:
        check_ranges("channels", self.channels)
        label = getattr(self, "label", None)
        named = [self.entity, self.time, *self.channels, *([label] if label else [])]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                f"{twice[0]}: expected a column to be one of entity, time, label and a channel"
            )
        return self

    def columns(self, length: int) -> SeriesColumns:
        """The channels as a network reads them, of so many moments."""
        channels = {name: (low, high) for name, (low, high) in self.channels.items()}
        return SeriesColumns(channels=channels, length=length)


def read_series(data: SourceKeys, columns: MomentKeys, *, label: str | None) -> Rows:
    """A series for each entity, in order of their first rows, and its label if there is a column of it.

    Rows without an entity or a time are left out. Raises DataError if no entity is there.
    """
    from tasks.data.read_table import read_table

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


def digest_series(content: Series | None) -> bytes:
    """SHA-256 of the moments in order of time, 32 bytes; the entity's name does not count."""
    return hashlib.sha256(json.dumps(content).encode()).digest()
