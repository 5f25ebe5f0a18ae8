"""Images: which of a few labels each has; a folder a label, or a table with a path and a label a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from protocol.job.job import DRAWN
from tasks.data.image_files import IMAGES, ImageFile, ImageShape
from tasks.data.image_gate import ImageGate
from tasks.labelled_files import LabelledFileKeys, LabelledFilesTask
from tasks.labelled_keys import DeclaredLabels
from tasks.pixels import any_pixels, image_logits, scaled_pixels
from tasks.task import TaskKeys, Units

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH, _PARTS = 16, 4  # of the network: filters, and parts of each side


class ImageSection(LabelledFileKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels."""

    size: Annotated[int, Field(ge=16, le=256)]
    colours: bool = True

    @property
    def reader(self) -> ImageShape:
        """What images become."""
        return ImageShape(size=self.size, colours=self.colours)


class ImageColumns(LabelledFileKeys, DeclaredLabels):
    """A site's keys: images with labels."""


class ImageClassification(LabelledFilesTask):
    """Images, for an image classifier of transformers' under LoRA, or a small network that is drawn."""

    name = "image-classification"
    about = "which of a few labels an image has"
    pipeline = "image-classification"
    units = Units(example="image", size="images")
    kind = IMAGES
    Section: type[ImageSection] = ImageSection
    Columns: type[LabelledFileKeys] = ImageColumns
    Gate: type[TaskKeys] = ImageGate

    def judged(self, content: ImageFile) -> Path:
        """The file that the image is in."""
        return content.path

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return any_pixels(random, shape)

    def scaled(self, values: torch.Tensor, reader: ImageShape) -> torch.Tensor:
        return scaled_pixels(values, reader)

    def logits(self, model: Any, values: torch.Tensor) -> torch.Tensor:
        return image_logits(model, values)

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

    def open_reader(self, source: str, columns: LabelledFileKeys) -> ImageShape:  # noqa: ARG002
        """Images as small as any: no model says more."""
        return ImageShape(size=16, colours=True)

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """A network as all tasks' own; another model for transformers' ``from_pretrained``."""
        from tasks.model.image_base import save_image_classifier

        if hasattr(merged, "made_of"):
            super().export(merged, base, folder)
        else:
            save_image_classifier(merged, folder, base.reader)


TASK = ImageClassification()
