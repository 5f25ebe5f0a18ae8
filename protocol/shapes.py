"""Shapes of physical batches: what an example is computed with says nothing of who else was drawn.

Rounding depends on the shape of a batch, and an adapter can be made up that turns rounding into whole
gradients. So an example's batch is always as wide as its own length asks for, and always as tall as the
job asks for: blank rows fill it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.examples import Batch, Examples

_LEAST = 8


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Batches of ``rows`` rows, each in one of ``widths`` tokens, in rising order."""

    rows: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, *, longest: int, batch_size: int, physical_batch_size: int) -> Shapes:
        """For texts of at most ``longest`` tokens: no more rows than leave half of a step's full.

        Each width that occurs has one batch with blanks in it, of half its rows on average.
        """
        widths = tuple(_widths(longest))
        rows = min(physical_batch_size, batch_size // (2 * len(widths)))
        return cls(rows=max(1, rows), widths=widths)

    @property
    def alone(self) -> Shapes:
        """The same with every example in a batch of its own."""
        return Shapes(rows=1, widths=self.widths)

    def batches(self, examples: Examples, indices: NDArray[np.int64]) -> Iterator[Batch]:
        """The examples at ``indices`` in batches of these shapes, filled up with blank rows."""
        lengths = examples.lengths[indices]
        places = np.searchsorted(self.widths, lengths)
        # A text that is longer than the job allows is as wide as it is.
        widths = np.where(places < len(self.widths), np.take(self.widths, places, mode="clip"), lengths)
        for width in np.unique(widths):
            wide = indices[widths == width]
            for start in range(0, len(wide), self.rows):
                yield examples.batch(wide[start : start + self.rows], width=int(width), rows=self.rows)


def _widths(longest: int) -> Iterator[int]:
    """8, 16, 24, 32, then two to an octave: 48, 64, 96, 128, and so on up to ``longest``."""
    width = _LEAST
    while width < longest:
        yield width
        width += max(_LEAST, (1 << width.bit_length()) // 4)
    yield longest
