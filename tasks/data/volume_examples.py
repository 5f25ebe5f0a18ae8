"""Volumes as examples: cubes with masks, of which an example has one or several."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.data.dense_examples import DenseExamples
from tasks.data.examples import Batch

_BLOCK = 8  # voxels: what a size is counted in is a cube of so many a side


def blocks_in(size: int) -> int:
    """How many blocks a cube of ``size`` voxels a side has, rounded up."""
    side = -(-size // _BLOCK)
    return side**3


@dataclass(frozen=True, kw_only=True)
class VolumeExamples(DenseExamples):
    """n examples of ``together`` cubes, arrays [n, together, …], each cube as large as so many ``blocks``.

    Inputs of a batch are [b, together, …].
    """

    together: int
    blocks: int

    @property
    def rows_an_example(self) -> int:
        return self.together

    @property
    def sizes(self) -> NDArray[np.int64]:
        return super().sizes * self.blocks

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """The arrays' rows; blank rows are zero."""
        found = super().batch(indices, size=size or self.blocks, rows=rows)
        return replace(found, rows_an_example=self.together)
