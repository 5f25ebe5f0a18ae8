"""Examples of several rows each, such as two answers of which one is better: one example, one gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples


@dataclass(frozen=True, kw_only=True)
class GroupedExamples(Examples):
    """n examples of ``together`` rows: example i is rows i·together and those after it, of ``rows``.

    Its size is that of its largest row. One with a blank row is blank.
    """

    rows: Examples
    together: int
    labels: NDArray[np.int64] | None = None

    @property
    def rows_an_example(self) -> int:
        return self.together

    @property
    def sizes(self) -> NDArray[np.int64]:
        each = self.rows.sizes.reshape(-1, self.together)
        return np.where((each > 0).all(1), each.max(1, initial=0), 0)

    def take(self, indices: NDArray[np.int64]) -> GroupedExamples:
        return GroupedExamples(rows=self.rows.take(self._rows_of(indices)), together=self.together)

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """The inputs of ``rows``, each [b, together, …]."""
        size = size or int(self.sizes[indices].max())
        count = None if rows is None else rows * self.together
        flat = self.rows.batch(self._rows_of(indices), size=size, rows=count)
        inputs = {
            name: tensor.reshape(-1, self.together, *tensor.shape[1:])
            for name, tensor in flat.inputs.items()
        }
        return Batch(inputs=inputs, indices=indices, size=size, rows_an_example=self.together)

    def _rows_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = indices[:, None] * self.together + np.arange(self.together)
        return found.reshape(-1)
