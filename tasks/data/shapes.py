"""Shapes of physical batches: what an example is computed with says nothing of who else was drawn.

Rounding depends on the shape of a batch, and an adapter can be made up that turns rounding into whole
gradients. So an example's batch is always as wide as its own length asks for and as tall as the job asks
for, blank rows fill it up, and one row is always blank: models take another way through batches without
any padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples

# Narrower and lower batches save nothing: what a call costs by itself outweighs them.
_LEAST_WIDTH = 8
_LEAST_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Batches of ``rows`` rows, each in one of ``widths`` tokens, in rising order.

    At the widths in ``alone`` every example has a batch of its own.
    """

    rows: int
    widths: tuple[int, ...]
    alone: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, *, longest: int, batch_size: int, physical_batch_size: int, possible: int | None = None
    ) -> Shapes:
        """For texts of at most ``longest`` tokens, and a model that can take ``possible``.

        Batches are so low that blank rows are about a quarter at most: each width that occurs has one
        batch with blanks in it, of half its rows on average.
        """
        # In an odd width a row's rounding does depend on its place, on some machines.
        even = -(-longest // _LEAST_WIDTH) * _LEAST_WIDTH
        widths = tuple(_widths(even if possible is None else max(longest, min(even, possible))))
        rows = min(physical_batch_size, max(_LEAST_ROWS, batch_size // (2 * len(widths))))
        return cls(rows=rows if rows > 2 else 1, widths=widths)

    def widths_of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The width for texts of these lengths. One longer than the job allows is as wide as it is."""
        places = np.searchsorted(self.widths, lengths)
        known = np.take(self.widths, places, mode="clip")
        return np.where(places < len(self.widths), known, lengths).astype(np.int64)

    def rows_at(self, width: int) -> int:
        """How high a batch of this width is."""
        return 1 if width in self.alone else self.rows

    def batches(self, examples: Examples, indices: NDArray[np.int64]) -> Iterator[Batch]:
        """The examples at ``indices`` in batches of these shapes, filled up with blank rows."""
        widths = self.widths_of(examples.lengths[indices])
        for width in map(int, np.unique(widths)):
            wide, rows = indices[widths == width], self.rows_at(width)
            filled = max(1, rows - 1)
            for start in range(0, len(wide), filled):
                yield examples.batch(wide[start : start + filled], width=width, rows=rows)

    def filled_up(
        self, examples: Examples, indices: NDArray[np.int64], spare: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The examples at ``indices``, with spare ones in place of blank rows as far as there are any."""
        widths, spares = (self.widths_of(examples.lengths[chosen]) for chosen in (indices, spare))
        more = [indices]
        for width in map(int, np.unique(widths)):
            room = -int((widths == width).sum()) % max(1, self.rows_at(width) - 1)
            more.append(spare[spares == width][:room])
        return np.concatenate(more)


def _widths(longest: int) -> Iterator[int]:
    """8, 16, 24, 32, then two to an octave: 48, 64, 96, 128, and so on up to ``longest``."""
    width = _LEAST_WIDTH
    while width < longest:
        yield width
        width += max(_LEAST_WIDTH, (1 << width.bit_length()) // 4)
    yield longest
