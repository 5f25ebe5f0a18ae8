"""A bar that fills while the sites of a long round train."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runs.formats import format_seconds

if TYPE_CHECKING:
    from rich.table import Table

# A round that is over sooner needs no bar.
_SHOWN_AFTER = 2.0
_WIDTH = 16


class RoundBar:
    """How far the training of a round is: of its ``sites``, each with so many ``examples``."""

    def __init__(self, *, sites: int, examples: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._sites, self._examples = sites, examples
        self._clock = clock
        self._began = self._moved = clock()
        self._done = 0.0

    def move(self, done: float) -> None:
        """So many sites are done by now."""
        self._done, self._moved = done, self._clock()

    def shown(self) -> Table | None:
        """The bar and what it says, on one line; None for a round that has just begun."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if self._clock() - self._began < _SHOWN_AFTER:
            return None
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=self._sites, completed=self._done, width=_WIDTH), self._said())
        return grid

    def _said(self) -> str:
        sites, took = f"{int(self._done)} of {self._sites} sites", self._moved - self._began
        if not took:
            return sites
        speed = f"{self._done * self._examples / took:,.0f} examples/s"
        if self._done >= self._sites:
            return f"{sites}, {speed}"
        left = took * (self._sites - self._done) / self._done - (self._clock() - self._moved)
        return f"{sites}, {speed}, about {format_seconds(max(left, 0.0))} left in this round"
