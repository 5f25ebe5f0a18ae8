"""Examples of several owners that may share a batch, each owner's where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples, offsets_of


class JointExamples(Examples):
    """The examples of all ``parts``, one part after the other; nothing of them is copied.

    ``offsets``, int64[parts + 1], are where each part begins, and where the last one ends.
    """

    labels = None  # each part has its own

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = tuple(parts)
        self.offsets = offsets_of(np.array([len(part) for part in self.parts], np.int64))
        self._sizes = np.concatenate([part.sizes for part in self.parts])

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._sizes

    def take(self, indices: NDArray[np.int64]) -> JointExamples:
        return JointExamples([self.parts[owner].take(own) for owner, own in self.by_owner(indices)])

    def owners(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which part each of the examples at ``indices`` is of."""
        found: NDArray[np.int64] = np.searchsorted(self.offsets, indices, side="right") - 1
        return found

    def by_owner(self, indices: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
        """Runs of ``indices`` that are one part's, in their order, each with its numbers in that part."""
        owners = self.owners(indices)
        edges = np.flatnonzero(np.diff(owners)) + 1
        return [
            (int(owners[start]), indices[start:end] - self.offsets[owners[start]])
            for start, end in zip([0, *edges], [*edges, len(indices)], strict=True)
            if end > start
        ]

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        size = int(size or self._sizes[indices].max())
        runs = self.by_owner(indices)
        found = [self.parts[owner].batch(own, size=size) for owner, own in runs[:-1]]
        owner, own = runs[-1]
        # Blank rows come after all others.
        left = None if rows is None else rows - (len(indices) - len(own))
        found.append(self.parts[owner].batch(own, size=size, rows=left))
        names = found[0].inputs
        inputs = {name: torch.cat([batch.inputs[name] for batch in found]) for name in names}
        return replace(found[0], inputs=inputs, indices=indices)
