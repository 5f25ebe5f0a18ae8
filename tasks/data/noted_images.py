"""Images with words, such as scans with notes: one example of both, of which one may be missing."""

from __future__ import annotations

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


@dataclass(frozen=True, order=True)
class NotedImage:
    """Pixels by their SHA-256, as hex, and a text: "" where there is no image, or no word."""

    pixels: str
    text: str
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
    """The rows of a table: each an image, a text or both, and None without a readable image or a word.

    The remarks count the rows that have one of both alone.
    """
    contents: list[NotedImage | None] = []
    faults: dict[int, str] = {}
    unread: list[str] = []
    for row, (path, cell) in enumerate(zip(paths, texts, strict=True)):
        text = cell if cell and plain_caption(cell) else ""
        image = None
        try:
            image = None if path is None else IMAGES.find(path)
        except UnreadableFileError as error:
            fault = f"{quoted(path.name if path else '')} {error}"
            if text:
                unread.append(fault)
            else:
                faults[row] = fault
        whole = NotedImage(image.digest if image else "", text, image)
        contents.append(whole if image or text else None)
    return Rows(
        contents=tuple(contents),
        labels=tuple(labels),
        faults=faults,
        remarks=tuple(_remarks(contents, unread)),
    )


def _remarks(contents: Sequence[NotedImage | None], unread: Sequence[str]) -> Iterable[str]:
    known = [content for content in contents if content is not None]
    words = sum(content.image is None for content in known)
    images = sum(not content.text for content in known)
    if words:
        yield f"rows with words and no image that can be read: {words}"
    if unread:
        yield f"images that cannot be read, in rows with words: {len(unread)}; the first, {unread[0]}"
    if images:
        yield f"rows with an image and no words: {images}"
