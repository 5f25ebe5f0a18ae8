"""Images with masks: which label each pixel has; pairs of files, or slices of volumes."""

from __future__ import annotations

import hashlib
import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from privacy.errors import ModelError
from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn
from protocol.plain_text import Label, Word, quoted
from tasks.data.image_files import ImageShape
from tasks.data.mask_files import MASK_NUMBERS, MaskedShape, find_masked
from tasks.data.named_files import UnreadableFileError, paths_in_table
from tasks.data.rows import Rows, present
from tasks.mask_outcome import DICE, LEAST_DICE, MASK_LOSS, MaskOutcome
from tasks.network_task import NetworkTask, Range, check_ranges
from tasks.pixels import any_pixels, scaled_pixels
from tasks.task import Encoded, TaskKeys, Units

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.dense_examples import DenseExamples
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

WIDTHS = [8, 16, 32]  # of the U-Net: channels at each half of the size
# Of UNETR: channels at the whole size, and a token's numbers; and how many pixels a patch has on each side.
_WIDTH, _HIDDEN, _HEADS = 4, 32, 4
_PATCH = 16
Network: TypeAlias = Literal["unet", "unetr"]
_MOST_LABELS = 100


class MaskedKeys(TaskKeys):
    """A table's columns of paths to images, or volumes, and to masks, relative to its folder.

    ``labels`` say what the numbers in masks mean, from 0 on; the first is what is around.
    """

    path: Word = "path"
    mask: Word = "mask"
    labels: Annotated[list[Label], Field(min_length=2, max_length=_MOST_LABELS)]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.path == self.mask:
            raise ValueError("mask: expected another column than path")
        if any(present(label) is None for label in self.labels) or len(set(self.labels)) != len(
            self.labels
        ):
            raise ValueError("labels: expected each once, and none that is empty")
        return self


def check_patches(network: Network, size: int) -> None:
    """Raises ValueError for a size that the network's patches do not fill."""
    if network == "unetr" and size % _PATCH:
        raise ValueError(f'size: expected a multiple of {_PATCH} with network="unetr", got {size}')


class MaskedSection(MaskedKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels; of volumes ``range`` is seen."""

    size: Annotated[int, Field(ge=16, le=256, multiple_of=1 << len(WIDTHS) - 1)]
    colours: bool = False
    range: Range = Field(default=[0.0, 255.0], description="of volumes, from where to where numbers go")
    network: Network = "unet"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        check_ranges("data", {"range": self.range})
        check_patches(self.network, self.size)
        return self

    @property
    def reader(self) -> MaskedShape:
        """What images with masks become."""
        low, high = self.range
        image = ImageShape(size=self.size, colours=self.colours)
        return MaskedShape(image=image, labels=len(self.labels), low=low, high=high)


class ImageSegmentation(NetworkTask):
    """Images with masks, for a U-Net or UNETR of MONAI's blocks, which is drawn and trained whole.

    Of a volume each slice is an example: what is promised, is promised for each of them, and not for whom
    they are of.
    """

    name = "image-segmentation"
    about = "which label each pixel of an image has"
    units = Units(example="image or slice with its mask", size="images")
    labelled, headed = False, False  # not an example has a label, but a pixel
    measures = (DICE, LEAST_DICE, MASK_LOSS)
    distance_unit = "pixels"
    Section: type[MaskedKeys] = MaskedSection
    Columns: type[MaskedKeys] = MaskedKeys

    def refuses(self, job: Job, section: Any) -> str | None:  # noqa: ARG002
        """A table's row may be many slices, and so no column has a value for each example."""
        if isinstance(job.federation.partition, ByColumn):
            return f'federation.partition: expected "iid" with task="{self.name}"'
        return self.refuses_model(job)

    def read(self, data: SourceKeys, columns: MaskedKeys) -> Rows:
        """Each image, or slice, in order of the table's rows; None where file or mask cannot be used.

        Raises DataError if there is no such column.
        """
        from tasks.data.read_table import read_table

        table = read_table(data, columns=[columns.path, columns.mask])
        places = [
            paths_in_table(data, table.column(name, key=f"data.{key}"))
            for key, name in (("path", columns.path), ("mask", columns.mask))
        ]
        contents: list[Any] = []
        faults: dict[int, str] = {}
        for path, mask in zip(*places, strict=True):
            if path is None or mask is None:
                contents += self.none_of_it(columns)
                continue
            try:
                found = self.find(path, mask, columns)
            except UnreadableFileError as error:
                found, why = self.none_of_it(columns), str(error)
            else:
                why = MASK_NUMBERS
            begun = len(contents)
            faults |= {
                begun + n: f"{quoted(path.name)} {why}" for n, one in enumerate(found) if one is None
            }
            contents += found
        return Rows(contents=tuple(contents), faults=faults)

    def find(self, path: Path, mask: Path, columns: Any) -> Sequence[Any]:
        """The examples that two files have; None for one of no use. Raises UnreadableFileError."""
        return find_masked(path, mask, labels=len(columns.labels))

    def none_of_it(self, columns: Any) -> Sequence[None]:  # noqa: ARG002
        """What stands for files that cannot be read."""
        return [None]

    def digest(self, content: Any) -> bytes:
        """SHA-256 of the pixels, 32 bytes, whatever the mask; of none, that of nothing."""
        return hashlib.sha256((content.digest if content else "").encode()).digest()

    def encode(  # type: ignore[override]  # its reader makes several arrays
        self, reader: MaskedShape, rows: Rows, *, labels: tuple[str, ...]
    ) -> Encoded:
        """Each image, or slice, with its mask."""
        from tasks.data.labelled_rows import encode_labelled

        return encode_labelled(dict(reader.encode(rows.contents)), rows, labels=labels)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Pixels of any brightness, with any labels."""
        from tasks.data.dense_examples import DenseExamples

        reader = adapted.base.reader
        size = (len(sizes), reader.image.size, reader.image.size)
        arrays = {
            "values": any_pixels(random, (len(sizes), *reader.shape)),
            "mask": random.integers(0, reader.labels, size, "uint8"),
        }
        return DenseExamples(arrays=arrays, labels=None, blank=sizes == 0)

    def load(
        self,
        job: Job,
        section: Any,
        *,
        labels: tuple[str, ...],  # noqa: ARG002
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The network, drawn from ``seeds.adapter``. Raises ModelError without MONAI."""
        if importlib.util.find_spec("monai") is None:
            raise ModelError(f"task=\"{self.name}\" needs MONAI: pip install 'confide[imaging]'")
        from tasks.model.drawn_network import load_drawn
        from tasks.model.segmentation_network import SegmentationNetwork
        from tasks.model.unetr_network import UnetrNetwork

        reader = section.reader
        given = {
            "channels": reader.shape[0],
            "labels": list(section.labels),
            "dims": len(reader.shape) - 1,
        }

        def make() -> SegmentationNetwork | UnetrNetwork:
            if section.network == "unet":
                return SegmentationNetwork(widths=WIDTHS, **given)
            return UnetrNetwork(width=_WIDTH, hidden=_HIDDEN, heads=_HEADS, **given)

        return load_drawn(
            make,
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def regions(self, reader: Any, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:  # noqa: ARG002
        """An image's pixels are where they are."""
        return numbers

    def spacing(self, reader: Any) -> tuple[float, ...]:  # noqa: ARG002
        """A pixel, of the public size that images are scaled to."""
        return 1.0, 1.0

    def open_reader(self, source: str, columns: MaskedKeys) -> MaskedShape:  # noqa: ARG002
        """Images as small as any: no model says more."""
        image = ImageShape(size=16, colours=False)
        return MaskedShape(image=image, labels=len(columns.labels), low=0.0, high=255.0)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> MaskOutcome:
        """Dice and focal loss of each image."""
        pixels = scaled_pixels(batch.inputs["values"], adapted.base.reader.image)
        with adapted.device.autocast():
            logits = adapted.peft(pixels)
        return MaskOutcome.of(logits.float(), batch.inputs["mask"].long())


TASK = ImageSegmentation()
