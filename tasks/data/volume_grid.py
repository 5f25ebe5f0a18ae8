"""A public grid: volumes at one spacing, cropped or filled up to one extent, and cut into cubes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class VolumeGrid:
    """Cubes of ``size`` voxels a side, of ``extent`` voxels around a volume's middle, ``spacing`` apart.

    Axes go to right, front and top. Extents are multiples of the size, spacings in millimetres.
    """

    size: int
    extent: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def patches(self) -> int:
        """How many cubes every volume becomes."""
        return prod(self.extent) // self.size**3

    def placed(
        self, values: NDArray[np.float32], spacing: NDArray[np.float64], *, nearest: bool
    ) -> NDArray[np.float32]:
        """A volume of this ``spacing`` on the grid, float32[extent], with 0 beside it.

        Between voxels numbers are linear or, where they stand for labels, those of the ``nearest``.
        """
        from scipy import ndimage  # type: ignore[import-untyped]

        step = np.divide(self.spacing, spacing)  # of the grid, in voxels of the volume
        whole = np.maximum(1, np.rint(np.divide(values.shape, step)))  # its extent on the grid
        start = (whole - self.extent) // 2
        found: NDArray[np.float32] = ndimage.affine_transform(
            values,
            step,
            offset=(start + 0.5) * step - 0.5,
            output_shape=self.extent,
            order=0 if nearest else 1,
            mode="nearest",
        )
        for axis, (before, there) in enumerate(zip(start, whole, strict=True)):
            at = np.arange(self.extent[axis]) + before
            np.moveaxis(found, axis, 0)[(at < 0) | (at >= there)] = 0
        return found

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is on the grid, [extent], as cubes, [patches, size, size, size], those along z first."""
        size = self.size
        x, y, z = (side // size for side in self.extent)
        apart = values.reshape(x, size, y, size, z, size).transpose(0, 2, 4, 1, 3, 5)
        return apart.reshape(-1, size, size, size)

    def joined(self, cubes: NDArray[Any]) -> NDArray[Any]:
        """Cubes, [n, patches, size, size, size], as what they were cut from, [n, extent]."""
        size = self.size
        x, y, z = (side // size for side in self.extent)
        apart = cubes.reshape(-1, x, y, z, size, size, size).transpose(0, 1, 4, 2, 5, 3, 6)
        return apart.reshape(-1, *self.extent)

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"size": self.size, "extent": list(self.extent), "spacing": list(self.spacing)}
