"""Volumes with masks on a public grid: cubes of pixels and labels, or why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.canonical import canonical_json
from privacy.errors import DataError
from tasks.data.mask_files import known_labels
from tasks.data.named_files import UnreadableFileError
from tasks.data.volume_files import Volume, is_volume, read_volume
from tasks.data.volume_grid import VolumeGrid

_SPACINGS = (1e-3, 1e3)  # millimetres that a voxel may be wide
_ELSEWHERE = 0.25  # of a voxel: as far as a mask may lie from its volume, by rounding of headers


@dataclass(frozen=True, order=True)
class MaskedVolume:
    """A volume by the SHA-256 of its voxels, as hex, or its cube ``patch`` by that, the grid and the place.

    Its mask does not count, nor how its file is turned.
    """

    digest: str
    path: Path = field(compare=False)
    mask: Path = field(compare=False)
    grid: VolumeGrid = field(compare=False)
    patch: int | None = field(compare=False)


def find_volume(
    path: Path, mask: Path, *, labels: int, grid: VolumeGrid, whole: bool
) -> list[MaskedVolume | None]:
    """The volume in a file if it is one ``whole`` example, else its cubes; None for one that is of no use.

    That is one whose mask has other numbers than ``labels``. Raises UnreadableFileError.
    """
    volume, drawn = _read_pair(path, mask)
    own = hashlib.sha256(f"{volume.values.shape}".encode() + volume.values.tobytes()).hexdigest()
    known = [cube is not None for cube in _labels_of(drawn, grid, labels)]
    if whole:
        return [MaskedVolume(own, path, mask, grid, None) if all(known) else None]
    begun = canonical_json({"volume": own, "grid": grid.as_table()})
    return [
        MaskedVolume(hashlib.sha256(begun + f" {place}".encode()).hexdigest(), path, mask, grid, place)
        if usable
        else None
        for place, usable in enumerate(known)
    ]


def _read_pair(path: Path, mask: Path) -> tuple[Volume, Volume]:
    for place, what in ((path, ""), (mask, "its mask ")):
        if not place.exists():
            raise UnreadableFileError(f"{what}is not there")
        if not is_volume(place):
            raise UnreadableFileError(f"{what}is no NIfTI, and no folder with a DICOM series")
    volume, drawn = read_volume(path, ""), read_volume(mask, "its mask ")
    if volume.values.shape != drawn.values.shape:
        raise UnreadableFileError("has another size than its mask")
    for one, what in ((volume, ""), (drawn, "its mask ")):
        low, high = _SPACINGS
        if not ((one.spacing >= low) & (one.spacing <= high)).all():
            raise UnreadableFileError(f"{what}has voxels of another width than {low} to {high:g} mm")
    if not np.abs(volume.corners - drawn.corners).max() <= _ELSEWHERE * volume.spacing.min():
        raise UnreadableFileError("lies elsewhere than its mask, as their headers say")
    return volume, drawn


def _labels_of(drawn: Volume, grid: VolumeGrid, labels: int) -> list[NDArray[np.uint8] | None]:
    """The labels in each cube; None in one with other numbers, which says nothing of the next."""
    placed = grid.placed(drawn.values, drawn.spacing, nearest=True)
    return [known_labels(cube, labels) for cube in grid.cut(placed)]


@dataclass(frozen=True, kw_only=True)
class VolumeShape:
    """What volumes with masks become: cubes on a ``grid``, numbers from ``low`` to ``high`` as 0 to 255.

    An example is a ``whole`` volume, or one cube.
    """

    grid: VolumeGrid
    whole: bool
    labels: int
    low: float
    high: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a cube."""
        return (1, *[self.grid.size] * 3)

    @property
    def together(self) -> int:
        """How many cubes an example has."""
        return self.grid.patches if self.whole else 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the channel says, in words."""
        apart = " by ".join(f"{one:g}" for one in self.grid.spacing)
        return (f"{self.low:g} to {self.high:g} as -1 to 1, voxels {apart} mm apart, axes to RAS",)

    def encode(self, contents: Iterable[MaskedVolume | None]) -> dict[str, NDArray[np.uint8]]:
        """Volumes as ``values``, uint8[n, together, 1, …], and ``mask``, uint8[n, together, …].

        What can no longer be read becomes zeros. Raises DataError for another grid than that which the data
        were read with: other cubes would be other examples.
        """
        contents, cube = list(contents), (self.grid.size,) * 3
        values = np.zeros((len(contents), self.together, 1, *cube), np.uint8)
        masks = np.zeros((len(contents), self.together, *cube), np.uint8)
        last: tuple[Path, Path] | None = None
        for place, content in enumerate(contents):
            if content is None:
                continue
            if (content.grid, content.patch is None) != (self.grid, self.whole):
                raise DataError(
                    "data: expected the example, size, extent and spacing that these data are read with"
                )
            try:
                if last != (content.path, content.mask):  # cubes of a volume follow one another
                    pixels, known = self._cubes(content)
                    last = (content.path, content.mask)
                chosen = slice(None) if content.patch is None else slice(content.patch, content.patch + 1)
                labels = [one for one in known[chosen] if one is not None]
                if len(labels) == self.together:
                    values[place, :, 0], masks[place] = pixels[chosen], np.stack(labels)
            except (OSError, ValueError):
                continue  # its row decides about itself alone, and it was readable when the data were read
        return {"values": values, "mask": masks}

    def _cubes(self, content: MaskedVolume) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8] | None]]:
        volume, drawn = _read_pair(content.path, content.mask)
        # Cut off first: between a voxel without a number and the next there would be none.
        known = np.nan_to_num(volume.values, nan=self.low, posinf=self.high, neginf=self.low)
        scaled = 255 * (np.clip(known, self.low, self.high) - self.low) / (self.high - self.low)
        placed = self.grid.placed(scaled.astype(np.float32), volume.spacing, nearest=False)
        pixels: NDArray[np.uint8] = self.grid.cut(np.rint(placed).astype(np.uint8))
        return pixels, _labels_of(drawn, self.grid, self.labels)

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        ends = {"low": self.low, "high": self.high}
        return {"grid": self.grid.as_table(), "whole": self.whole, "labels": self.labels, **ends}
