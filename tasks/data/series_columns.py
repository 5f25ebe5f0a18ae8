"""Rows of a table as series: one for each entity, in order of time, of a public length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from protocol.plain_text import quoted
from tasks.data.feature_columns import number_in, plain_number

# A series: what each channel is called, and the moments in order of time. A moment has the one way to write
# each channel's number, "" for what is missing.
Series: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, kw_only=True)
class Entities:
    """n entities in order of their first rows: a series each, None without any moment, and its label.

    Of the table's rows, so many were ``left_out``: they have no entity, or no time.
    """

    series: tuple[Series | None, ...]
    labels: tuple[str | None, ...] | None
    left_out: int


def read_entities(
    *,
    entities: Sequence[str | None],
    times: Sequence[str | None],
    channels: Mapping[str, Sequence[str | None]],
    labels: Sequence[str | None] | None,
) -> Entities:
    """The rows of a table by entity, each entity's in order of time and else as they are written.

    A time is a number, or a day or moment as ISO 8601 has it; one without a zone is taken for UTC. An
    entity whose rows have several labels has none.
    """
    names = tuple(sorted(channels))
    rows: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
    told: dict[str, set[str | None]] = {}
    left_out = 0
    for row, (entity, time) in enumerate(zip(entities, times, strict=True)):
        if entity is None or not entity.strip():
            left_out += 1
            continue
        found = rows.setdefault(entity.strip(), [])
        if labels is not None:
            told.setdefault(entity.strip(), set()).add(labels[row])
        at = moment_in(time)
        if at is None:
            left_out += 1
        else:
            found.append((at, tuple(plain_number(channels[name][row]) for name in names)))
    return Entities(
        series=tuple(
            (names, tuple(values for _, values in sorted(found, key=lambda one: one[0]))) if found else None
            for found in rows.values()
        ),
        labels=None
        if labels is None
        else tuple(next(iter(t)) if len(t) == 1 else None for t in told.values()),
        left_out=left_out,
    )


def moment_in(cell: str | None) -> float | None:
    """The time that a cell holds, as a number that grows with it; None if it holds none.

    >>> moment_in("7"), moment_in("1970-01-02"), moment_in("noon")
    (7.0, 86400.0, None)
    """
    number = number_in(cell)
    if number is not None or cell is None:
        return number
    try:
        found = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, kw_only=True)
class SeriesColumns:
    """The channels that a network reads, in order of their names, with a public range each.

    A series longer than the public ``length`` is cut to its first moments.
    """

    channels: Mapping[str, tuple[float, float]]
    length: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.channels))

    @property
    def shape(self) -> tuple[int, ...]:
        return 2 * len(self.channels), self.length

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of a network's channels says, in words."""
        ranges = ((name, *self.channels[name]) for name in self.names)
        scaled = [f"{name}, {low:g} to {high:g} as -1 to 1; 0 if missing" for name, low, high in ranges]
        return (*scaled, *(f"1 where {name} is there" for name in self.names))

    @property
    def columns(self) -> tuple[str, ...]:
        """Which channel each of a network's channels is of."""
        return self.names * 2

    def encode(self, series: Iterable[Series | None]) -> NDArray[np.float32]:
        """Series as float32[n, 2 · channels, length]: scaled numbers, then 1 where there is one.

        Numbers are cut off at their range's ends. What is missing, and what comes after a series' end, is 0
        in both. Raises DataError for channels that the data were read without.
        """
        whole = list(series)
        found = np.zeros((len(whole), 2 * len(self.channels), self.length), np.float32)
        for place, one in enumerate(whole):
            if one is None:
                continue
            read, moments = one
            lacking = sorted(set(self.names) - set(read))
            if lacking:  # of one data set, all series have the same channels
                raise DataError(
                    f"the job reads the channels {', '.join(map(quoted, lacking))}, which these data are "
                    "read without: declare them in [data.ALIAS.channels]"
                )
            at = [read.index(name) for name in self.names]
            cells = [[moment[channel] for channel in at] for moment in moments[: self.length]]
            numbers = np.array([[float(cell or "nan") for cell in row] for row in cells]).T
            there = ~np.isnan(numbers)
            low, high = np.array([self.channels[name] for name in self.names]).T[:, :, None]
            scaled = 2.0 * (np.clip(numbers, low, high) - low) / (high - low) - 1.0
            found[place, : len(at), : len(cells)] = np.where(there, scaled, 0.0)
            found[place, len(at) :, : len(cells)] = there
        return found

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        channels = {name: list(ends) for name, ends in sorted(self.channels.items())}
        return {"channels": channels, "length": self.length}
