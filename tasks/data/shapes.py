"""Shapes of physical batches: what an example is computed with says nothing of who else was drawn.

Rounding depends on the shape of a batch, and an adapter can be made up that turns rounding into whole
gradients. So an example's batch is always of the public size that its own size asks for and as tall as the
job asks for, blank rows fill it up, and one row is always blank: models take another way through batches
without any padding.
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
class Sizes:
    """How large a job's examples can be, from ``least`` to ``most``; what batches are padded to is public.

    ``public`` are those sizes, in rising order. They follow from job and model, never from data.
    """

    least: int
    most: int
    public: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Batches of ``rows`` rows, each of one of the public ``sizes``, in rising order.

    At the sizes in ``alone`` every example has a batch of its own.
    """

    rows: int
    sizes: tuple[int, ...]
    alone: frozenset[int] = frozenset()

    @classmethod
    def of(cls, sizes: tuple[int, ...], *, batch_size: int, physical_batch_size: int) -> Shapes:
        """For these public sizes.

        Batches are so low that blank rows are about a quarter at most: each size that occurs has one batch
        with blanks in it, of half its rows on average.
        """
        rows = min(physical_batch_size, max(_LEAST_ROWS, batch_size // (2 * len(sizes))))
        return cls(rows=rows if rows > 2 else 1, sizes=sizes)

    def public_sizes(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What examples of these sizes are padded to. One larger than the job allows stays as it is."""
        places = np.searchsorted(self.sizes, sizes)
        known = np.take(self.sizes, places, mode="clip")
        return np.where(places < len(self.sizes), known, sizes).astype(np.int64)

    def rows_at(self, size: int) -> int:
        """How many rows a batch of this size has."""
        return 1 if size in self.alone else self.rows

    def batches(self, examples: Examples, indices: NDArray[np.int64]) -> Iterator[Batch]:
        """The examples at ``indices`` in batches of these shapes, filled up with blank rows."""
        sizes = self.public_sizes(examples.sizes[indices])
        for size in map(int, np.unique(sizes)):
            alike, rows = indices[sizes == size], self.rows_at(size)
            filled = max(1, rows - 1)
            for start in range(0, len(alike), filled):
                yield examples.batch(alike[start : start + filled], size=size, rows=rows)

    def filled_up(
        self, examples: Examples, indices: NDArray[np.int64], spare: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The examples at ``indices``, with spare ones in place of blank rows as far as there are any."""
        sizes, spares = (self.public_sizes(examples.sizes[chosen]) for chosen in (indices, spare))
        more = [indices]
        for size in map(int, np.unique(sizes)):
            room = -int((sizes == size).sum()) % max(1, self.rows_at(size) - 1)
            more.append(spare[spares == size][:room])
        return np.concatenate(more)


def ladder(longest: int, *, possible: int | None = None) -> tuple[int, ...]:
    """Public widths for texts of at most ``longest`` tokens, and a model that can take ``possible``."""
    # In an odd width a row's rounding does depend on its place, on some machines.
    even = -(-longest // _LEAST_WIDTH) * _LEAST_WIDTH
    return tuple(_widths(even if possible is None else max(longest, min(even, possible))))


def _widths(longest: int) -> Iterator[int]:
    """8, 16, 24, 32, then two to an octave: 48, 64, 96, 128, and so on up to ``longest``."""
    width = _LEAST_WIDTH
    while width < longest:
        yield width
        width += max(_LEAST_WIDTH, (1 << width.bit_length()) // 4)
    yield longest
