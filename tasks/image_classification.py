"""Images: which of a few labels each has; a folder a label, or a table with a path and a label a row."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.job.job import DRAWN, ByColumn
from protocol.plain_text import Word, quoted
from tasks.data.image_files import SUFFIXES, ImageFile, ImageShape, UnreadableImageError, find_image
from tasks.data.package_path import locate
from tasks.data.rows import Rows, present
from tasks.labelled_keys import DeclaredLabels, LabelledKeys
from tasks.network_task import NetworkTask
from tasks.task import Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH, _PARTS = 16, 4  # of the network: filters, and parts of each side
FOLDER = "folder"  # the label of an image is its folder's name, where no table says it


class ImageKeys(LabelledKeys):
    """Where the images are: in folders named after their labels, or at the paths in a table's column.

    Paths are relative to the table's folder.
    """

    label: Word | None = FOLDER
    path: Word | None = Field(None, description="a table's column of paths; unset: a folder for each label")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.path is None and self.label != FOLDER:
            raise ValueError("path: expected the column of paths beside the column of labels")
        return self


class ImageSection(ImageKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels."""

    size: Annotated[int, Field(ge=16, le=256)]
    colours: bool = True

    @property
    def reader(self) -> ImageShape:
        """What images become."""
        return ImageShape(size=self.size, colours=self.colours)


class ImageColumns(ImageKeys, DeclaredLabels):
    """A site's keys: images with labels."""


class ImageClassification(NetworkTask):
    """Images, for an image classifier of transformers' under LoRA, or a small network that is drawn."""

    name = "image-classification"
    pretrained, drawn = True, True
    about = "which of a few labels an image has"
    pipeline = "image-classification"
    units = Units(example="image", size="images")
    Section: type[ImageSection] = ImageSection
    Columns: type[ImageKeys] = ImageColumns

    def refuses(self, job: Job, section: ImageSection) -> str | None:
        """Folders have no column that sites could be made by."""
        if section.path is None and isinstance(job.federation.partition, ByColumn):
            return 'federation.partition: expected "iid" or a dirichlet without data.path'
        return super().refuses(job, section)

    def read(self, data: SourceKeys, columns: ImageKeys) -> Rows:
        """Each image by its pixels, in order of the files' names or of the table's rows, and its label.

        One that cannot be read is None. Raises DataError if there is no folder, no image or no column.
        """
        paths, labels = (
            _in_folders(data)
            if columns.path is None
            else _in_table(data, columns.path, columns.label or FOLDER)
        )
        contents: list[ImageFile | None] = []
        faults: dict[int, str] = {}
        for row, path in enumerate(paths):
            try:
                contents.append(None if path is None else find_image(path))
            except UnreadableImageError as error:
                contents.append(None)
                faults[row] = f"{quoted(path.name if path else '')} {error}"
        return Rows(contents=tuple(contents), labels=tuple(labels), faults=faults)

    def digest(self, content: ImageFile | None) -> bytes:
        """SHA-256 of the pixels, 32 bytes, however they were packed; of none, that of nothing."""
        return hashlib.sha256((content.digest if content else "").encode()).digest()

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Pixels of any brightness."""
        return random.integers(0, 256, shape, "uint8")

    def scaled(self, values: torch.Tensor, reader: ImageShape) -> torch.Tensor:
        """Pixels from 0 to 255 as the model wants them: from -1 to 1, unless it says else."""
        pixels = values.float() / 255
        mean, deviation = (pixels.new_tensor(one)[:, None, None] for one in (reader.mean, reader.deviation))
        return (pixels - mean) / deviation

    def logits(self, model: Any, values: torch.Tensor) -> torch.Tensor:
        import torch

        found = model(values)
        logits: torch.Tensor = found if isinstance(found, torch.Tensor) else found.logits
        return logits

    def count_labels(self, model: Any) -> int:
        return super().count_labels(model) if hasattr(model, "made_of") else int(model.config.num_labels)

    def load(
        self,
        job: Job,
        section: ImageSection,
        *,
        labels: tuple[str, ...],
        device: Device,
    ) -> BaseModel:
        """A classifier as it was trained before, with a head for the labels; or the network, drawn."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.image_base import load_image_classifier
        from tasks.model.image_network import ImageNetwork

        reader = section.reader
        if job.model.source != DRAWN:
            return load_image_classifier(job, labels=labels, device=device, shape=reader)
        return load_drawn(
            lambda: ImageNetwork(channels=reader.shape[0], labels=list(labels), width=_WIDTH, parts=_PARTS),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: ImageKeys) -> ImageShape:  # noqa: ARG002
        """Images as small as any: no model says more."""
        return ImageShape(size=16, colours=True)

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """A network as all tasks' own; another model for transformers' ``from_pretrained``."""
        from tasks.model.image_base import save_image_classifier

        if hasattr(merged, "made_of"):
            super().export(merged, base, folder)
        else:
            save_image_classifier(merged, folder, base.reader)


def _in_folders(data: SourceKeys) -> tuple[Sequence[Path | None], Sequence[str | None]]:
    """The images in the folders of a folder, by name, and each one's folder's name."""
    top = Path(locate(data.source)) / (data.split or "")
    if not top.is_dir():
        raise DataError(
            f"data.source={data.source!r}: expected a folder with a folder of images for each label, or "
            "data.path and a table"
        )
    folders = sorted(entry for entry in top.iterdir() if entry.is_dir() and entry.name[0] not in "._")
    found = [
        (path, folder.name)
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.name[0] not in "._"
    ]
    if not found:
        raise DataError(
            f"data.source={data.source!r}: no folder in it has an image that ends in {', '.join(SUFFIXES)}"
        )
    return [path for path, _ in found], [label for _, label in found]


def _in_table(
    data: SourceKeys, path: str, label: str
) -> tuple[Sequence[Path | None], Sequence[str | None]]:
    """The paths and labels of a table's rows; None where a cell is empty."""
    from tasks.data.read_table import read_table

    table = read_table(data, columns=[path, label])
    place = Path(locate(data.source))
    beside = place if place.is_dir() else place.parent
    paths = [present(cell) for cell in table.column(path, key="data.path")]
    labels = [present(cell) for cell in table.column(label, key="data.label")]
    return [None if cell is None else beside / cell for cell in paths], labels


TASK = ImageClassification()
