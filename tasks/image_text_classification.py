"""Images with words: which of a few labels both have together, as scans with notes."""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import DRAWN
from protocol.plain_text import Word
from tasks.data import caption_vectors
from tasks.data.caption_vectors import LENGTH
from tasks.data.image_files import ImageShape
from tasks.data.named_files import paths_in_table
from tasks.data.noted_images import NotedImage, NotedShape, other_inputs, read_noted
from tasks.data.rows import Rows, present
from tasks.label_outcome import LabelOutcome
from tasks.labelled_keys import DeclaredLabels, LabelledKeys
from tasks.network_task import NetworkTask
from tasks.pixels import any_pixels, logits_in, scaled_pixels, trunk_inputs
from tasks.task import Encoded, TaskKeys, Units

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.dense_examples import DenseExamples
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH, _PARTS = 16, 4  # of the network: filters, and parts of each side

Weight = Annotated[float, Field(ge=0, le=100)]


class NotedKeys(LabelledKeys):
    """A table's columns of paths, relative to its folder, of words, and of labels."""

    path: Word = "path"
    text: Word = "text"
    label: Word | None = "label"

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.text == self.path:
            raise ValueError("text: expected another column than path")
        if self.label in (self.path, self.text):
            raise ValueError("label: expected another column than path and text")
        return self


class NotedColumns(NotedKeys, DeclaredLabels):
    """A site's keys: images with words and labels."""


class ModalityWeights(TaskKeys):
    """How long what is read of the image and of the words is, beside one another; 0 leaves one out."""

    image: Weight = 1.0
    text: Weight = 1.0

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.image or self.text):
            raise ValueError("weights: expected more than 0 of image or of text: nothing else is read")
        return self


class NotedSection(NotedKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels."""

    size: Annotated[int, Field(ge=16, le=256)]
    colours: bool = True
    weights: ModalityWeights = ModalityWeights()

    @property
    def reader(self) -> NotedShape:
        """What images with words become."""
        return NotedShape(image=ImageShape(size=self.size, colours=self.colours))


class ImageTextClassification(NetworkTask):
    """Images with words: a layer on both, over a network that is drawn or a frozen one of transformers'.

    Words are a public vector that nothing is learned for. What is missing of an example, its image or its
    words, is zero, and only one without both is blank.
    """

    name = "image-text-classification"
    about = "which label an image has together with its words"
    units = Units(example="image with its words", size="rows")
    pretrained = True
    Section: type[NotedSection] = NotedSection
    Columns: type[NotedKeys] = NotedColumns

    def refuses(self, job: Job, section: NotedSection) -> str | None:
        """What would keep a head, or centre features, that say nothing of words."""
        if job.model.head != "new":
            return (
                f'model.head: expected "new" with task="{self.name}", whose last layer reads words, too, '
                f'got "{job.model.head}"'
            )
        if job.model.features is not None:
            return (
                f'model.features: expected none with task="{self.name}", whose features are divided by '
                "their own length"
            )
        return super().refuses(job, section)

    def read(self, data: SourceKeys, columns: NotedKeys) -> Rows:
        """Each row's image and words; None where there is neither.

        Raises DataError if there is no such column.
        """
        from tasks.data.read_table import read_table

        label = columns.label or "label"
        table = read_table(data, columns=[columns.path, columns.text, label])
        labels = [present(cell) for cell in table.column(label, key="data.label")]
        return read_noted(
            paths_in_table(data, table.column(columns.path, key="data.path")),
            table.column(columns.text, key="data.text"),
            labels,
        )

    def has_program(self, source: str) -> bool:  # noqa: ARG002
        """No library has a class for a trunk under a layer that reads words."""
        return True

    def one_row_an_example(self, columns: NotedKeys) -> bool:  # noqa: ARG002
        """A row is an image with its words."""
        return True

    def digest(self, content: NotedImage | None) -> bytes:
        """SHA-256 of the pixels, 32 bytes, whatever the words say; without an image, that of the text.

        So a scan has one budget in all tasks on images, and none anew for a note that is written again.
        Words could not stand for it: many notes say the same.
        """
        return content.known if content else hashlib.sha256(b"").digest()

    def encode(  # type: ignore[override]  # its reader makes several arrays
        self, reader: NotedShape, rows: Rows, *, labels: tuple[str, ...]
    ) -> Encoded:
        """Each row by itself, with its label's number."""
        from tasks.data.labelled_rows import encode_labelled

        return encode_labelled(reader.encode(rows.contents), rows, labels=labels)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Pixels of any brightness, with vectors as long as those of words."""
        import numpy as np

        from tasks.data.dense_examples import DenseExamples

        words = random.standard_normal((len(sizes), LENGTH))
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        arrays: dict[str, NDArray[Any]] = {
            "values": any_pixels(random, (len(sizes), *adapted.base.reader.image.shape)),
            "words": words.astype(np.float32),
            "seen": np.ones(len(sizes), np.float32),
        }
        labels = random.integers(0, self.count_labels(adapted.base.model), len(sizes))
        return DenseExamples(arrays=arrays, labels=labels, blank=sizes == 0)

    def load(
        self, job: Job, section: NotedSection, *, labels: tuple[str, ...], device: Device
    ) -> BaseModel:
        """A trunk as it was trained before under a layer that reads words, too; or the network, drawn."""
        from dataclasses import replace

        from tasks.model.drawn_network import load_drawn
        from tasks.model.image_base import load_image_classifier
        from tasks.model.noted_network import NotedNetwork
        from tasks.model.noted_trunk import with_words

        reader = section.reader
        weights = [section.weights.image, section.weights.text]
        if job.model.source != DRAWN:
            trunk = load_image_classifier(job, labels=labels, device=device, shape=reader.image)
            base = with_words(trunk, labels=labels, words=LENGTH, weights=weights)
            return replace(base, reader=replace(reader, image=trunk.reader))
        return load_drawn(
            lambda: NotedNetwork(
                channels=reader.image.shape[0],
                labels=list(labels),
                width=_WIDTH,
                parts=_PARTS,
                words=LENGTH,
                weights=weights,
            ),
            seed=job.seeds.adapter,
            last="joint.classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: NotedKeys) -> NotedShape:  # noqa: ARG002
        """Images as small as any: no model says more."""
        return NotedShape(image=ImageShape(size=16, colours=True))

    def forward(self, adapted: AdaptedModel, batch: Batch) -> LabelOutcome:
        """Cross-entropy of the label."""
        reader, inputs = adapted.base.reader, batch.inputs
        with adapted.device.autocast():
            pixels = batch.given("values", lambda found: scaled_pixels(found, reader.image))
            found = adapted.peft(pixels, inputs["words"], inputs["seen"])
        return LabelOutcome.of(logits_in(found).float(), inputs["labels"])

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """The network or trunk, the layer on both, and the program that makes vectors of words."""
        from pathlib import Path as Place

        from tasks.model.image_base import save_image_classifier
        from tasks.model.network_folder import write_network
        from tasks.model.noted_trunk import write_noted

        reader = base.reader
        if hasattr(merged, "trunk"):
            inputs = (trunk_inputs(reader.image), *other_inputs())
            save_image_classifier(merged.trunk, write_noted(merged, folder, inputs=inputs), reader.image)
        else:
            write_network(merged, folder, inputs=reader.inputs)
        program = Place(inspect.getfile(caption_vectors)).read_text("utf-8")
        (folder / "caption_vectors.py").write_text(program, "utf-8")


TASK = ImageTextClassification()
