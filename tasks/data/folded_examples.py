"""Examples that are groups of rows, each of as many as it has and all computed as if of as many as any."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples

THERE = "there"  # the input that says which of a group's rows count


@dataclass(frozen=True, kw_only=True)
class FoldedExamples(Examples):
    """n groups of rows of ``rows``: group i has those at ``places[i]``, int64[n, k], where ``there[i]``.

    Where one has fewer than k, its first row stands in the places that are left, and does not count: what
    is computed has a public shape. Its size is that of its largest row; one with no row is blank.
    """

    rows: Examples
    places: NDArray[np.int64]
    there: NDArray[np.bool_]
    labels: NDArray[np.int64] | None = None

    @property
    def rows_an_example(self) -> int:
        return int(self.places.shape[1])

    @property
    def sizes(self) -> NDArray[np.int64]:
        if not len(self.rows):
            return np.zeros(len(self.places), np.int64)
        found: NDArray[np.int64] = (self.rows.sizes[self.places] * self.there).max(1)
        return found

    def take(self, indices: NDArray[np.int64]) -> FoldedExamples:
        return replace(self, places=self.places[indices], there=self.there[indices])

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """The inputs of ``rows``, each [b, k, …], and ``there``, float32[b, k]."""
        together = self.rows_an_example
        size = size or int(self.sizes[indices].max())
        flat = self.rows.batch(
            self.places[indices].reshape(-1), size=size, rows=None if rows is None else rows * together
        )
        inputs = {
            name: tensor.reshape(-1, together, *tensor.shape[1:]) for name, tensor in flat.inputs.items()
        }
        there = np.zeros((len(flat) // together, together), np.float32)
        there[: len(indices)] = self.there[indices]
        inputs[THERE] = torch.from_numpy(there)
        return Batch(inputs=inputs, indices=indices, size=size, rows_an_example=together)


def fold(rows: Examples, counts: NDArray[np.int64], *, together: int) -> FoldedExamples:
    """The first ``counts[0]`` of the rows as the first group, and so on; blank rows are left out.

    No group may have more than ``together`` of them.
    """
    places = np.zeros((len(counts), together), np.int64)
    there = np.zeros((len(counts), together), bool)
    ends, usable = np.cumsum(counts), rows.sizes > 0
    for group, (end, count) in enumerate(zip(ends, counts, strict=True)):
        own = np.arange(end - count, end)
        own = own[usable[own]]
        if len(own):
            places[group] = own[0]
            places[group, : len(own)] = own
            there[group, : len(own)] = True
    return FoldedExamples(rows=rows, places=places, there=there)
