"""Images with words, such as scans with notes: one example of both, of which one may be missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.plain_text import quoted
from tasks.data.caption_vectors import LENGTH, caption_vector, plain_caption
from tasks.data.image_files import IMAGES, ImageFile, ImageShape
from tasks.data.named_files import UnreadableFileError
from tasks.data.rows import Rows
from tasks.data.text_digest import digest_text


@dataclass(frozen=True, order=True)
class NotedImage:
    """An image, None where there is none, with a text, "" where it has no word.

    ``known`` is what a ledger knows it by, 32 bytes, and what makes two equal: one scan with two notes is
    on one side of a held-out split.
    """

    known: bytes
    text: str = field(compare=False)
    image: ImageFile | None = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class NotedShape:
    """What images with words become: pixels as an image's alone, and a vector of the words."""

    image: ImageShape

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of the network's inputs says: the channels of pixels, then words, and seen."""
        return (*self.image.inputs, *other_inputs())

    def encode(self, contents: Iterable[NotedImage | None]) -> dict[str, NDArray[Any]]:
        """By their inputs' names: zeros of what is missing, and of both where there is no content.

        ``values`` are pixels, uint8[n, channels, size, size], ``words`` float32[n, 256], and ``seen``
        float32[n]: 1 where there is an image, as black ones are zero, too.
        """
        whole = list(contents)
        images = [None if content is None else content.image for content in whole]
        texts = ["" if content is None else content.text for content in whole]
        return {
            "values": self.image.encode(images),
            "words": np.array([caption_vector(text) for text in texts], np.float32).reshape(-1, LENGTH),
            "seen": np.array([image is not None for image in images], np.float32),
        }

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"image": self.image.as_table(), "words": LENGTH}


def other_inputs() -> tuple[str, str]:
    """What a network is given beside pixels, in words."""
    return (
        f"words: {LENGTH} numbers, caption_vector of caption_vectors.py; zeros without words",
        "seen: 1, or 0 where there is no image, whose pixels then do not matter",
    )


def read_noted(
    paths: Sequence[Path | None], texts: Sequence[str | None], labels: Sequence[str | None]
) -> Rows:
    """The rows of a table: each an image, a text or both.

    One is None without either, and where an image is named that cannot be read: with its words alone it
    would be another example, known by the text, until the image is back. The remarks count the rows that
    have one of both alone.
    """
    contents: list[NotedImage | None] = []
    faults: dict[int, str] = {}
    for row, (path, cell) in enumerate(zip(paths, texts, strict=True)):
        text = cell if cell and plain_caption(cell) else ""
        try:
            image = None if path is None else IMAGES.find(path)
        except UnreadableFileError as error:
            faults[row] = f"{quoted(path.name if path else '')} {error}"
            contents.append(None)
            continue
        known = hashlib.sha256(image.digest.encode()).digest() if image else digest_text(text)
        contents.append(NotedImage(known, text, image) if image or text else None)
    return Rows(
        contents=tuple(contents), labels=tuple(labels), faults=faults, remarks=tuple(_remarks(contents))
    )


def _remarks(contents: Sequence[NotedImage | None]) -> Iterable[str]:
    known = [content for content in contents if content is not None]
    words = sum(content.image is None for content in known)
    images = sum(not content.text for content in known)
    if words:
        yield f"rows with words and no image: {words}"
    if images:
        yield f"rows with an image and no words: {images}"
