"""Examples of one size, stored dense: an array an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples


@dataclass(frozen=True, kw_only=True)
class DenseExamples(Examples):
    """n examples of size 1: example i is row i of each of ``arrays``, [n, …], by the input's name.

    Those where ``blank``, bool[n], is set are blank.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    blank: NDArray[np.bool_]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.where(self.blank, 0, 1).astype(np.int64)

    def take(self, indices: NDArray[np.int64]) -> DenseExamples:
        return replace(
            self,
            arrays={name: array[indices] for name, array in self.arrays.items()},
            labels=None if self.labels is None else self.labels[indices],
            blank=self.blank[indices],
        )

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """The arrays' rows; blank rows are zero."""
        blanks = max(0, (rows or 0) - len(indices))
        arrays = dict(self.arrays) | ({} if self.labels is None else {"labels": self.labels})
        inputs = {
            name: torch.from_numpy(
                np.concatenate([array[indices], np.zeros((blanks, *array.shape[1:]), array.dtype)])
            )
            for name, array in arrays.items()
        }
        return Batch(inputs=inputs, indices=indices, size=size or 1)
