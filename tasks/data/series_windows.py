"""Series as windows: what is known of each, and the numbers that follow, of public lengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.series_columns import Series, SeriesColumns


@dataclass(frozen=True, kw_only=True)
class SeriesWindows:
    """The last ``windows`` of a series, each of ``context`` moments and the ``horizon`` that follow them.

    ``series`` are as long as both. Numbers to come are those of the channel ``target``, and no
    window's are another's. What stands before a series' first moment is missing.
    """

    series: SeriesColumns
    target: str
    context: int
    horizon: int
    windows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.series.shape[0], self.context

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of a network's channels says, in words."""
        return self.series.inputs

    @property
    def channel(self) -> int:
        """The target's place among the channels."""
        return self.series.names.index(self.target)

    def encode(self, series: Iterable[Series | None]) -> dict[str, NDArray[np.float32]]:
        """Series as rows, ``windows`` of them for each, the latest one first.

        "values", [n · windows, 2 · channels, context]; "next", [n · windows, horizon], from -1 to 1, cut
        off at the range's ends; and "told", of the same shape: 1 where there is such a number. A
        window with no number of the target before it, or none to come, tells nothing: it is zero. Raises
        DataError for channels that the data were read without.
        """
        rows = [row for one in series for row in self._windows_of(one)]
        found = self.series.encode(rows)
        numbers, there = found[:, self.channel], found[:, self.channel + len(self.series.channels)]
        told = there[:, self.context :] * there[:, : self.context].max(1, keepdims=True)
        some = told.any(1)
        return {
            "values": found[:, :, : self.context] * some[:, None, None],
            "next": numbers[:, self.context :] * told,
            "told": told,
        }

    def _windows_of(self, series: Series | None) -> list[Series | None]:
        if series is None:
            return [None] * self.windows
        names, moments = series
        nothing = ("",) * len(names)
        found: list[Series | None] = []
        for window in range(self.windows):
            end = len(moments) - window * self.horizon
            part = moments[max(0, end - self.series.length) : max(0, end)]
            found.append((names, (nothing,) * (self.series.length - len(part)) + part))
        return found

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        sizes = {"context": self.context, "horizon": self.horizon, "windows": self.windows}
        return self.series.as_table() | {"target": self.target} | sizes
