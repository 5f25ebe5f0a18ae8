"""Volumes with masks: which label each voxel has; NIfTI files or DICOM series, cut on a public grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.data.rows import NO_CONTENT, Rows
from tasks.data.volume_grid import VolumeGrid
from tasks.data.volume_patches import VolumeShape, find_volume
from tasks.image_segmentation import WIDTHS, ImageSegmentation, MaskedKeys, Network, check_patches
from tasks.mask_outcome import MaskOutcome
from tasks.network_task import Range, check_ranges
from tasks.pixels import any_pixels
from tasks.task import Encoded, Units

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tasks.data.examples import Batch
    from tasks.data.volume_examples import VolumeExamples
    from tasks.data.volume_patches import MaskedVolume
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel

_Side = Annotated[int, Field(ge=16, le=512)]
_Millimetres = Annotated[float, Field(ge=0.05, le=50.0)]
# Of a volume: as one example, which is computed whole, and as examples of their own.
_MOST_TOGETHER, _MOST_PATCHES = 64, 4096


class VolumeKeys(MaskedKeys):
    """A table's columns, and how every volume is cut: what is an ``example`` is what is protected.

    A job's are those of the site's data: other cubes would be other examples, with budgets of their own.
    """

    example: Literal["volume", "patch"] = "volume"
    size: Annotated[int, Field(ge=16, le=128, multiple_of=1 << len(WIDTHS) - 1)]
    extent: Annotated[
        list[_Side],
        Field(min_length=3, max_length=3, description="voxels to right, front and top around the middle"),
    ]
    spacing: Annotated[
        list[_Millimetres], Field(min_length=3, max_length=3, description="millimetres between voxels")
    ]

    @model_validator(mode="after")
    def _cut_evenly(self) -> Self:
        if any(side % self.size for side in self.extent):
            raise ValueError("extent: expected multiples of size")
        whole = self.example == "volume"
        if self.grid.patches > (_MOST_TOGETHER if whole else _MOST_PATCHES):
            raise ValueError(
                f'extent: expected at most {_MOST_TOGETHER} patches in a volume with example="volume", '
                f"{_MOST_PATCHES} else, got {self.grid.patches}: make size larger, or extent smaller"
            )
        return self

    @property
    def grid(self) -> VolumeGrid:
        """Where the cubes are."""
        x, y, z = self.extent
        right, front, top = self.spacing
        return VolumeGrid(size=self.size, extent=(x, y, z), spacing=(right, front, top))


class VolumeSection(VolumeKeys):
    """A job's keys: of volumes ``range`` is seen."""

    range: Annotated[Range, Field(description="from where to where numbers go, in the scanner's unit")]
    network: Network = "unet"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        check_ranges("data", {"range": self.range})
        check_patches(self.network, self.size)
        return self

    @property
    def reader(self) -> VolumeShape:
        """What volumes with masks become."""
        return _reader(self, *self.range)


class VolumeSegmentation(ImageSegmentation):
    """Volumes with masks, for MONAI's U-Net or UNETR in three dimensions, which is drawn and trained whole.

    With ``example = "volume"`` all cubes of a volume are one example, with one loss, and one gradient that
    is clipped: what is promised, is promised for the volume. With "patch" it is promised for each cube, and
    who is in k of them is protected by k times the ε.
    """

    name = "volume-segmentation"
    about = "which label each voxel of a scan has"
    distance_unit = "mm"
    units = Units(example="volume, or patch of one, with its mask", size="blocks of 8 voxels a side")
    Section: type[MaskedKeys] = VolumeSection
    Columns: type[MaskedKeys] = VolumeKeys

    def find(self, path: Path, mask: Path, columns: VolumeKeys) -> Sequence[MaskedVolume | None]:
        """The volume, or its cubes in order of the axes, the last one first."""
        return find_volume(
            path,
            mask,
            labels=len(columns.labels),
            grid=columns.grid,
            whole=columns.example == "volume",
        )

    def none_of_it(self, columns: VolumeKeys) -> Sequence[None]:
        """As many as any volume has: how many examples there are says nothing of what can be read."""
        return [None] * (1 if columns.example == "volume" else columns.grid.patches)

    def sizes(self, base: BaseModel, section: Any) -> Any:  # noqa: ARG002
        """All cubes are of one size."""
        from tasks.data.shapes import Sizes
        from tasks.data.volume_examples import blocks_in

        blocks = blocks_in(base.reader.grid.size)
        return Sizes(least=blocks, most=blocks, public=(blocks,))

    def encode(  # type: ignore[override]  # its reader makes several arrays
        self,
        reader: VolumeShape,
        rows: Rows,
        *,
        labels: tuple[str, ...],  # noqa: ARG002
    ) -> Encoded:
        """Each volume, or cube, with its mask. Raises DataError for data that were cut otherwise."""
        import numpy as np

        blank = np.array([content is None for content in rows.contents], bool)
        examples = _examples(reader, reader.encode(rows.contents), blank)
        places = tuple(map(int, np.flatnonzero(blank)))
        return Encoded(examples=examples, blank={NO_CONTENT: places} if places else {})

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> VolumeExamples:
        """Voxels of any brightness, with any labels."""
        reader = adapted.base.reader
        cubes = (len(sizes), reader.together)
        arrays = {
            "values": any_pixels(random, (*cubes, *reader.shape)),
            "mask": random.integers(0, reader.labels, (*cubes, *reader.shape[1:]), "uint8"),
        }
        return _examples(reader, arrays, sizes == 0)

    def regions(self, reader: VolumeShape, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The cubes of a volume are put together; one that is an example stands alone."""
        cubes = numbers.reshape(len(numbers), reader.together, *[reader.grid.size] * 3)
        return reader.grid.joined(cubes) if reader.whole else cubes[:, 0]

    def spacing(self, reader: VolumeShape) -> tuple[float, ...]:
        """Millimetres of the public grid."""
        return reader.grid.spacing

    def open_reader(self, source: str, columns: VolumeKeys) -> VolumeShape:  # type: ignore[override]  # noqa: ARG002
        """Volumes as the custodian declares them: no model says more."""
        return _reader(columns, 0.0, 255.0)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> MaskOutcome:
        """Dice and focal loss of each example, over all of its cubes together."""
        values, masks = batch.inputs["values"], batch.inputs["mask"].long()
        with adapted.device.autocast():
            logits = adapted.peft(values.flatten(0, 1).float() / 127.5 - 1)
        apart = logits.float().reshape(*values.shape[:2], *logits.shape[1:])
        return MaskOutcome.of(apart.movedim(1, 2).flatten(2, 3), masks.flatten(1, 2))


def _reader(keys: VolumeKeys, low: float, high: float) -> VolumeShape:
    whole = keys.example == "volume"
    return VolumeShape(grid=keys.grid, whole=whole, labels=len(keys.labels), low=low, high=high)


def _examples(
    reader: VolumeShape, arrays: dict[str, NDArray[np.uint8]], blank: NDArray[np.bool_]
) -> VolumeExamples:
    from tasks.data.volume_examples import VolumeExamples, blocks_in

    return VolumeExamples(
        arrays=arrays,
        labels=None,
        blank=blank,
        together=reader.together,
        blocks=blocks_in(reader.grid.size),
    )


TASK = VolumeSegmentation()
