"""Images: which of a few labels each has; a folder a label, or a table with a path and a label a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import DRAWN
from protocol.plain_text import Word
from tasks.data.image_files import IMAGES, ImageFile, ImageShape
from tasks.data.image_gate import ImageGate
from tasks.label_outcome import LabelOutcome, focal
from tasks.labelled_files import FOLDER, LabelledFileKeys, LabelledFilesTask
from tasks.labelled_keys import DeclaredLabels
from tasks.pixels import any_pixels, image_logits, scaled_pixels
from tasks.task import Encoded, Outcome, TaskKeys, Units

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.data.rows import Rows
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH, _PARTS = 16, 4  # of the network: filters, and parts of each side


class ImageKeys(LabelledFileKeys):
    """Where images are: as other files, or as bytes in a table's column ``image``."""

    image: Word | None = Field(None, description="a table's column of images as bytes, in place of path")

    @property
    def in_table(self) -> bool:
        """Whether a table says which images there are."""
        return self.image is not None or super().in_table

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if self.image is not None and self.path is not None:
            raise ValueError("image: expected none beside path: one column says where images are")
        if self.image is not None and self.image == self.label:
            raise ValueError("image: expected another column than label")
        return self


class ImageSection(ImageKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels."""

    size: Annotated[int, Field(ge=16, le=256)]
    colours: bool = True

    @property
    def reader(self) -> ImageShape:
        """What images become."""
        return ImageShape(size=self.size, colours=self.colours)


class SeenImageSection(ImageSection):
    """A job's keys: every image is learned as it is and from ``views``, by their names.

    ``focal`` is the loss's γ: 0 is cross-entropy.
    """

    views: list[Word] = Field(default_factory=list)
    focal: Annotated[float, Field(ge=0, le=10)] = 0.0

    @field_validator("views")
    @classmethod
    def _known(cls, views: list[Word]) -> list[Word]:
        from tasks.data.image_views import VIEWS

        if len(set(views)) < len(views) or not VIEWS.keys() >= set(views):
            raise ValueError(f"expected each once of {', '.join(VIEWS)}")
        return views

    @property
    def reader(self) -> ImageShape:
        """What images become."""
        return ImageShape(size=self.size, colours=self.colours, views=tuple(self.views))


@dataclass(frozen=True, kw_only=True)
class SeenOutcome(LabelOutcome):
    """Of images with views: ``losses`` are means over these, and the rest is of images as they are."""

    focus: float

    def sums(self) -> dict[str, float]:
        own = focal(LabelOutcome.of(self.logits, self.labels).losses, self.focus)
        return super().sums() | {"nats": float(own.double().sum())}


class ImageColumns(ImageKeys, DeclaredLabels):
    """A site's keys: images with labels."""


class ImageClassification(LabelledFilesTask):
    """Images, for an image classifier of transformers' under LoRA, or a small network that is drawn."""

    name = "image-classification"
    about = "which of a few labels an image has"
    pipeline = "image-classification"
    units = Units(example="image", size="images")
    kind = IMAGES
    Section: type[ImageSection] = SeenImageSection
    Columns: type[LabelledFileKeys] = ImageColumns

    def read(self, data: SourceKeys, columns: LabelledFileKeys) -> Rows:
        """As of other files; or the images in a table's cells, in order of its rows, and their labels.

        Raises DataError.
        """
        column = getattr(columns, "image", None)
        if column is None:
            return super().read(data, columns)
        from tasks.data.image_cells import read_image_cells

        return read_image_cells(data, image=column, label=columns.label or FOLDER)

    Gate: type[TaskKeys] = ImageGate

    def judged(self, content: ImageFile) -> Path | bytes:
        """The file that the image is in, or what is in it."""
        return content.source

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return any_pixels(random, shape)

    def scaled(self, values: torch.Tensor, reader: ImageShape) -> torch.Tensor:
        return scaled_pixels(values, reader)

    def refuses(self, job: Job, section: LabelledFileKeys) -> str | None:
        """Views are rows of one image; a group has rows of its own."""
        if getattr(section, "views", None) and job.privacy.of_groups:
            return 'data.views: expected none with privacy.unit="group", whose examples have rows already'
        return super().refuses(job, section)

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each image by itself, with its label's number."""
        from tasks.data.image_views import ViewedExamples

        found = super().encode(reader, rows, labels=labels)
        return replace(found, examples=ViewedExamples.of(found.examples, reader.views))

    def made_up(self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]) -> Any:
        """Pixels of any brightness."""
        from tasks.data.image_views import ViewedExamples

        found = super().made_up(adapted, random, sizes)
        return ViewedExamples.of(found, adapted.base.reader.views)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Focal loss of the label, in the mean over an image's views; the answer is of the image itself.

        So an image has one loss and one gradient, however many views there are of it, and what is clipped
        is that one. Source: De et al. 2022 (arXiv:2204.13650), section 3.2.
        """
        views, focus = adapted.base.reader.views, adapted.spec.data["focal"]
        if not views:
            found = super().forward(adapted, batch)
            return replace(found, losses=focal(found.losses, focus))
        from torch.nn import functional

        from tasks.data.image_views import seen_from

        labels = batch.inputs["labels"]
        with adapted.device.autocast():
            pixels = batch.given(
                "values", lambda found: self.scaled(seen_from(found, views), adapted.base.reader)
            )
            logits = self.logits(adapted.peft, pixels).float()
        sides = 1 + len(views)
        each = functional.cross_entropy(logits, labels.repeat_interleave(sides), reduction="none")
        own = vars(LabelOutcome.of(logits[::sides], labels))
        losses = focal(each, focus).reshape(-1, sides).mean(1)
        return SeenOutcome(**own | {"losses": losses, "focus": focus})

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
