"""Pictures with words: which caption an image has, among those of a public bank."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import DRAWN
from protocol.plain_text import Label, Word, quoted
from tasks.data import caption_vectors
from tasks.data.caption_vectors import LENGTH, caption_vector, plain_caption
from tasks.data.image_files import IMAGES, ImageFile, ImageShape
from tasks.data.named_files import UnreadableFileError, paths_in_table
from tasks.data.rows import Rows
from tasks.measures import LOSS
from tasks.network_task import NetworkTask
from tasks.pair_outcome import RECALL_1, RECALL_10, PairOutcome, divergence
from tasks.pixels import any_pixels, image_logits, scaled_pixels
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
_LEAST, _MOST = 40, 4000  # captions of a bank: half of them are trained against, and ten are asked for
# By so much cosines of captions that share no word are off from zero, as parts of words fall on one place
# by chance (Weinberger et al. 2009, arXiv:0902.2206, lemma 2: a variance in the order of 1 / length). What
# is chance then moves a logit by about one, and what shares words with a caption stands out.
_TEMPERATURE = LENGTH**-0.5


@dataclass(frozen=True, order=True)
class Pair:
    """An image and its caption's plain words. Those of one image are equal: all are held out, or none."""

    image: ImageFile
    words: str = field(compare=False)


class PairKeys(TaskKeys):
    """A table's columns of paths, relative to its folder, and of captions."""

    path: Word = "path"
    caption: Word = "caption"

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.path == self.caption:
            raise ValueError("caption: expected another column than path")
        return self


class PairSection(PairKeys):
    """A job's keys: every image becomes ``size`` by ``size`` pixels; ``bank`` are public captions.

    ``alignment`` is the weight of a pull towards how the caption itself stands to those of the bank.
    """

    size: Annotated[int, Field(ge=16, le=256)]
    colours: bool = True
    bank: Annotated[list[Label], Field(min_length=_LEAST, max_length=_MOST)]
    loss: Word = Field("bank", description='what a caption is compared with: "bank", public ones')
    alignment: Annotated[float, Field(ge=0, le=100)] = 0.0

    @field_validator("bank")
    @classmethod
    def _distinct(cls, bank: list[str]) -> list[str]:
        plain = [plain_caption(caption) for caption in bank]
        counts = Counter(plain)
        odd = [
            caption for caption, words in zip(bank, plain, strict=True) if not words or counts[words] > 1
        ]
        if odd:
            raise ValueError(f"expected captions with words, each once; {quoted(odd[0])} is not such a one")
        return bank

    @field_validator("loss")
    @classmethod
    def _by_pair(cls, loss: str) -> str:
        if loss != "bank":
            raise ValueError(
                f'expected "bank", got {quoted(loss)}: a loss over a batch, as InfoNCE or SigLIP have it, '
                "compares a pair with the others of its batch, so that no pair has a gradient of its own "
                "that could be clipped"
            )
        return loss

    @property
    def reader(self) -> PairShape:
        """What pairs become."""
        image = ImageShape(size=self.size, colours=self.colours)
        return PairShape(image=image, bank=tuple(self.bank), alignment=self.alignment)


@dataclass(frozen=True, kw_only=True)
class PairShape:
    """What pairs become: an image, its caption as a vector, and which of the ``bank`` is the same.

    ``alignment`` is as in a job's keys, for the loss of what a model makes of them.
    """

    image: ImageShape
    bank: tuple[str, ...]
    alignment: float = 0.0

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The bank's captions, float32[k, 256]."""
        import numpy as np

        return np.stack([caption_vector(caption) for caption in self.bank])

    def encode(self, pairs: Iterable[Pair | None]) -> dict[str, NDArray[Any]]:
        """Pairs by their inputs' names; those without content are zero.

        ``values`` are pixels, uint8[n, channels, size, size], ``words`` float32[n, 256], and ``known``
        int64[n]: the place of its caption in the bank, from 1, or 0.
        """
        import numpy as np

        whole = list(pairs)
        places = {plain_caption(caption): place for place, caption in enumerate(self.bank, start=1)}
        captions = ["" if pair is None else pair.words for pair in whole]
        return {
            "values": self.image.encode(None if pair is None else pair.image for pair in whole),
            "words": np.array([caption_vector(one) for one in captions], np.float32).reshape(-1, LENGTH),
            "known": np.array([places.get(one, 0) for one in captions], np.int64),
        }

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"image": self.image.as_table(), "bank": list(self.bank)}


class ImageText(NetworkTask):
    """Pictures with words, for an image classifier of transformers' under LoRA, or a small network.

    Two towers: what the model says of an image is a vector in a space where every caption has its place,
    which is public and is not learned.
    """

    name = "image-text"
    about = "which caption an image has"
    units = Units(example="pair of an image and its caption", size="pairs")
    labelled, pretrained = False, True
    measures = (RECALL_10, RECALL_1, LOSS)
    Section: type[PairSection] = PairSection
    Columns: type[PairKeys] = PairKeys

    def refuses(self, job: Job, section: PairSection) -> str | None:  # noqa: ARG002
        """A head that tells labels apart says nothing of words."""
        if job.model.head != "new":
            return f'model.head: expected "new" with task="{self.name}", got "{job.model.head}"'
        return self.refuses_model(job)

    def read(self, data: SourceKeys, columns: PairKeys) -> Rows:
        """Each pair by its pixels and words, in order of the table's rows; None where one is lacking.

        Raises DataError if there is no such column.
        """
        from tasks.data.read_table import read_table

        table = read_table(data, columns=[columns.path, columns.caption])
        paths = paths_in_table(data, table.column(columns.path, key="data.path"))
        captions = table.column(columns.caption, key="data.caption")
        contents: list[Pair | None] = []
        faults: dict[int, str] = {}
        for row, (path, caption) in enumerate(zip(paths, captions, strict=True)):
            words, found = plain_caption(caption or ""), None
            try:
                found = None if path is None else IMAGES.find(path)
            except UnreadableFileError as error:
                faults[row] = f"{quoted(path.name if path else '')} {error}"
            if found is not None and not words:
                faults[row] = "a caption without words"
            contents.append(Pair(found, words) if found is not None and words else None)
        return Rows(contents=tuple(contents), faults=faults)

    def read_public(self, folder: Path) -> tuple[Pair, ...]:
        """The images of a folder, without captions."""
        return tuple(Pair(image, "") for image in IMAGES.read_folder(folder))

    def digest(self, content: Pair | None) -> bytes:
        """SHA-256 of the pixels, 32 bytes, whatever the caption says; of none, that of nothing."""
        return hashlib.sha256((content.image.digest if content else "").encode()).digest()

    def encode(  # type: ignore[override]  # its reader makes several arrays
        self, reader: PairShape, rows: Rows, *, labels: tuple[str, ...]
    ) -> Encoded:
        """Each pair by itself."""
        from tasks.data.labelled_rows import encode_labelled

        return encode_labelled(reader.encode(rows.contents), rows, labels=labels)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Pixels of any brightness, with vectors that no caption has."""
        from tasks.data.dense_examples import DenseExamples

        words = random.standard_normal((len(sizes), LENGTH)).astype("float32") / LENGTH**0.5
        values = any_pixels(random, (len(sizes), *adapted.base.reader.image.shape))
        known = random.integers(0, 2, len(sizes))
        arrays = {"values": values, "words": words, "known": known}
        return DenseExamples(arrays=arrays, labels=None, blank=sizes == 0)

    def load(
        self,
        job: Job,
        section: PairSection,
        *,
        labels: tuple[str, ...],  # noqa: ARG002
        device: Device,
    ) -> BaseModel:
        """An image classifier as it was trained before, with a head for vectors; or the network, drawn."""
        from dataclasses import replace

        from tasks.model.drawn_network import load_drawn
        from tasks.model.image_base import load_image_classifier
        from tasks.model.image_network import ImageNetwork

        reader = section.reader
        axes = tuple(f"words {number}" for number in range(LENGTH))
        if job.model.source != DRAWN:
            base = load_image_classifier(job, labels=axes, device=device, shape=reader.image)
            return replace(base, reader=replace(reader, image=base.reader))
        channels = reader.image.shape[0]
        return load_drawn(
            lambda: ImageNetwork(channels=channels, labels=list(axes), width=_WIDTH, parts=_PARTS),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def open_reader(self, source: str, columns: PairKeys) -> PairShape:  # noqa: ARG002
        """Images as small as any, and no bank: no model says more."""
        return PairShape(image=ImageShape(size=16, colours=True), bank=())

    def forward(self, adapted: AdaptedModel, batch: Batch) -> PairOutcome:
        """How each image's vector fits its own caption's, and the bank's."""
        import torch

        reader, inputs = adapted.base.reader, batch.inputs
        with adapted.device.autocast():
            pixels = batch.given("values", lambda found: scaled_pixels(found, reader.image))
            vectors = image_logits(adapted.peft, pixels).float()
        bank = torch.from_numpy(reader.vectors).to(vectors.device)
        places = torch.arange(1, len(bank) + 1, device=vectors.device)
        words, scores, pulled = inputs["words"], vectors @ bank.T, None
        if reader.alignment:
            pulled = reader.alignment * divergence(words @ bank.T, scores, temperature=_TEMPERATURE)
        alike = inputs["known"][:, None] == places
        return PairOutcome.of((vectors * words).sum(1), scores, alike=alike, pulled=pulled)

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """The model that makes vectors of images, and the program that makes them of captions."""
        from pathlib import Path as Place

        from tasks.model.image_base import save_image_classifier
        from tasks.model.network_folder import write_network

        if hasattr(merged, "made_of"):
            write_network(merged, folder, inputs=base.reader.image.inputs)
        else:
            save_image_classifier(merged, folder, base.reader.image)
        program = Place(inspect.getfile(caption_vectors)).read_text("utf-8")
        (folder / "caption_vectors.py").write_text(program, "utf-8")


TASK = ImageText()
