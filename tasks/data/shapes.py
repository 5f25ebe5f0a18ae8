"""Shapes of physical batches: what an example is computed with says nothing of who else was drawn.

Rounding depends on the shape of a batch, and an adapter can be made up that turns rounding into whole
gradients. So an example's batch is always of the public size that its own size asks for, and of one of the
heights among which no bit of an example's gradient differs on this machine. Blank rows fill it up, and one
row is always blank: models take another way through batches without any padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples

# Narrower and lower batches save nothing: what a call costs by itself outweighs them.
_LEAST_WIDTH = 8
_LEAST_ROWS = 4
# Where all batches have one height, and how tall they are without need.
_ONE_HEIGHT, _TALL = 8, 32
# Of a Poisson sample whose size is taken for its mean: what varies is then a small part of it.
_LARGE = 1000.0


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
    """Batches of one of the public ``sizes``, and as low as the ``heights`` at that size let them be.

    All are in rising order; heights are in rows. Where the only one is 1, every example has a batch of its
    own. At a size that is none of the public ones, batches have ``rows`` rows.
    """

    rows: int
    sizes: tuple[int, ...]
    heights: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, sizes: tuple[int, ...], *, batch_size: int, physical_batch_size: int) -> Shapes:
        """For these public sizes.

        Batches of one height are so low that blank rows are about a quarter at most: each size that occurs
        has one batch with blanks in it, of half its rows on average.
        """
        rows = min(physical_batch_size, max(_ONE_HEIGHT, batch_size // (2 * len(sizes))))
        if rows <= 2:
            return cls.of_one_height(1, sizes=sizes)
        tallest = min(physical_batch_size, max(rows, min(batch_size, _TALL)))
        return replace(cls.up_to(tallest, sizes=sizes), rows=rows)

    @classmethod
    def up_to(cls, rows: int, *, sizes: tuple[int, ...]) -> Shapes:
        """Batches of ``rows`` rows at most."""
        return cls(rows=rows, sizes=sizes, heights=dict.fromkeys(sizes, tuple(_steps(_LEAST_ROWS, rows))))

    @classmethod
    def of_one_height(cls, rows: int, *, sizes: tuple[int, ...]) -> Shapes:
        """Batches that all have ``rows`` rows."""
        return cls(rows=rows, sizes=sizes, heights=dict.fromkeys(sizes, (rows,)))

    def public_sizes(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What examples of these sizes are padded to. One larger than the job allows stays as it is."""
        places = np.searchsorted(self.sizes, sizes)
        known = np.take(self.sizes, places, mode="clip")
        return np.where(places < len(self.sizes), known, sizes).astype(np.int64)

    def heights_at(self, size: int) -> tuple[int, ...]:
        """How many rows a batch of this size may have, in rising order."""
        return self.heights.get(size, (self.rows,))

    def split(self, count: int, size: int) -> Iterator[tuple[int, int]]:
        """So many examples of one size in batches: how many are in each, and its height."""
        heights = self.heights_at(size)
        most = max(1, heights[-1] - 1)
        for start in range(0, count, most):
            held = min(most, count - start)
            yield held, next(rows for rows in heights if rows > held or rows == heights[-1])

    def expected(self, count: float, size: int) -> tuple[float, float]:
        """How many batches, and rows in all, a Poisson sample of ``count`` examples of one size has."""
        if count > _LARGE:
            counts, chances = [round(count)], np.ones(1)
        else:
            counts = list(range(math.ceil(count + 8 * math.sqrt(count)) + 1))
            logs = [k * math.log(max(count, 1e-300)) - count - math.lgamma(k + 1) for k in counts]
            chances = np.exp(logs)
        splits = [[rows for _, rows in self.split(k, size)] for k in counts]
        return float(chances @ [len(rows) for rows in splits]), float(chances @ [sum(r) for r in splits])

    def batches(self, examples: Examples, indices: NDArray[np.int64]) -> Iterator[Batch]:
        """The examples at ``indices`` in batches of these shapes, filled up with blank rows."""
        sizes = self.public_sizes(examples.sizes[indices])
        for size in map(int, np.unique(sizes)):
            alike, start = indices[sizes == size], 0
            for held, rows in self.split(len(alike), size):
                yield examples.batch(alike[start : start + held], size=size, rows=rows)
                start += held

    def filled_up(
        self, examples: Examples, indices: NDArray[np.int64], spare: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The examples at ``indices``, with spare ones in place of blank rows as far as there are any."""
        sizes, spares = (self.public_sizes(examples.sizes[chosen]) for chosen in (indices, spare))
        more = [indices]
        for size in map(int, np.unique(sizes)):
            *_, (held, rows) = self.split(int((sizes == size).sum()), size)
            more.append(spare[spares == size][: max(1, rows - 1) - held])
        return np.concatenate(more)


def ladder(longest: int, *, possible: int | None = None) -> tuple[int, ...]:
    """Public widths for texts of at most ``longest`` tokens, and a model that can take ``possible``."""
    # In an odd width a row's rounding does depend on its place, on some machines.
    even = -(-longest // _LEAST_WIDTH) * _LEAST_WIDTH
    return tuple(_steps(_LEAST_WIDTH, even if possible is None else max(longest, min(even, possible))))


def _steps(least: int, most: int) -> Iterator[int]:
    """Four multiples of ``least``, then two steps to an octave, up to ``most``, which is the last one."""
    step = least
    while step < most:
        yield step
        step += max(least, (1 << step.bit_length()) // 4)
    yield most
