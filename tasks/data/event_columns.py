"""Rows of a table as events by account: the last ones of each, in order of time, at a public number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.data.feature_columns import Cells, FeatureColumns
from tasks.data.series_columns import moment_in

# An account: its name, what its columns are called, and its events in order of time: when, and the one way
# to write what each column holds, "" for what is missing.
Account: TypeAlias = tuple[str, tuple[str, ...], tuple[tuple[float, tuple[str, ...]], ...]]

# Beside the columns: whether there is an event, how long before the last one it was, how long after the one
# before it, and whether there is one before it.
_BESIDE = 4
_DOUBLINGS = 16.0  # of the usual gap, which become 1: longer times are cut off there


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """n accounts in order of their first rows: each one's events, None without any, and its label.

    Of the table's rows, so many were ``left_out``: they have no account, or no time.
    """

    events: tuple[Account | None, ...]
    labels: tuple[str | None, ...] | None
    left_out: int


def read_accounts(
    *,
    names: tuple[str, ...],
    accounts: Sequence[str | None],
    times: Sequence[str | None],
    cells: Sequence[Cells | None],
    labels: Sequence[str | None] | None,
) -> Accounts:
    """The rows of a table by account, each one's in order of time and else as they are written.

    ``cells`` are what rows hold of the columns ``names``. Times are as for series. An account's label is
    that of its last event.
    """
    found: dict[str, list[tuple[float, tuple[str, ...], str | None]]] = {}
    nothing = ("",) * len(names)
    left_out = 0
    for row, (account, time) in enumerate(zip(accounts, times, strict=True)):
        if account is None or not account.strip():
            left_out += 1
            continue
        events, at, held = found.setdefault(account.strip(), []), moment_in(time), cells[row]
        if at is None:
            left_out += 1
        else:
            values = nothing if held is None else tuple(value for _, value in held)
            events.append((at + 0.0, values, labels[row] if labels is not None else None))
    for events in found.values():
        events.sort(key=lambda event: event[0])
    return Accounts(
        events=tuple(
            (name, names, tuple((at, values) for at, values, _ in events)) if events else None
            for name, events in found.items()
        ),
        labels=None
        if labels is None
        else tuple(events[-1][2] if events else None for events in found.values()),
        left_out=left_out,
    )


@dataclass(frozen=True, kw_only=True)
class EventColumns:
    """What a network reads of an account's last ``length`` events.

    Times between events are told in doublings of ``usual_gap``. Of an account's last event, ``told_after``
    names the columns that are not read.
    """

    features: FeatureColumns
    told_after: frozenset[str]
    usual_gap: float
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return _BESIDE + self.features.width, self.length

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of a network's channels says, in words."""
        return (
            "there is an event",
            "time before the last event",
            "time after the event before",
            "there is an event before",
            *self.features.inputs,
        )

    def encode(self, accounts: Iterable[Account | None]) -> NDArray[np.float32]:
        """Accounts as float32[n, 4 + columns, length], the last event of each in the last place.

        Places before the first event are zero. Raises DataError for columns that the data were read
        without.
        """
        whole = list(accounts)
        found = np.zeros((len(whole), *self.shape), np.float32)
        places: list[tuple[int, int]] = []
        held: list[Cells] = []
        for number, account in enumerate(whole):
            if account is None:
                continue
            _, names, events = account
            times = np.array([at for at, _ in events])
            kept = events[-self.length :]
            start = self.length - len(kept)
            first = len(events) == len(kept)  # nothing was before the first of them
            found[number, 0, start:] = 1.0
            found[number, 1, start:] = self._doublings(times[-1], times)[-len(kept) :]
            found[number, 2, start:] = self._doublings(times, np.roll(times, 1))[-len(kept) :]
            found[number, 3, start + first :] = 1.0
            found[number, 2] *= found[number, 3]
            for place, (_, values) in enumerate(kept, start=start):
                last = place == self.length - 1
                hidden: Collection[str] = self.told_after if last else ()
                pairs = zip(names, values, strict=True)
                held.append(tuple((name, "" if name in hidden else value) for name, value in pairs))
                places.append((number, place))
        if held:
            numbers, at = np.array(places).T
            found[numbers, _BESIDE:, at] = self.features.encode(held)
        return found

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            **self.features.as_table(),
            "told_after": sorted(self.told_after),
            "usual_gap": self.usual_gap,
            "length": self.length,
        }

    def _doublings(self, later: Any, earlier: NDArray[np.float64]) -> NDArray[np.float64]:
        """Times between moments as numbers from 0 to 1: 0 for none, and so much more for each doubling."""
        with np.errstate(over="ignore"):
            times = np.maximum(later - earlier, 0.0)
            found: NDArray[np.float64] = np.log2(1.0 + times / self.usual_gap) / _DOUBLINGS
        return found.clip(max=1.0)
