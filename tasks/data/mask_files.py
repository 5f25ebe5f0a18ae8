"""Images with masks, and slices of volumes with masks: pixels and labels of one public size, or why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.image_files import MOST_PIXELS, ImageShape, fitted, read_pixels
from tasks.data.named_files import UnreadableFileError
from tasks.data.volume_files import is_volume, read_volume

_PLAIN = ("L", "P", "1", "I;16", "I;16L", "I;16B", "I;16N", "I")  # modes in which a mask's numbers stand
_DIFFERS = "has another size than its mask"
MASK_NUMBERS = "has a mask with a number that no label is declared for"


@dataclass(frozen=True, order=True)
class MaskedImage:
    """An image, or a volume's slice ``number``, by the SHA-256 of its pixels, as hex, whatever its mask."""

    digest: str
    path: Path = field(compare=False)
    mask: Path = field(compare=False)
    number: int | None = field(compare=False)


def find_masked(path: Path, mask: Path, *, labels: int) -> list[MaskedImage | None]:
    """The image in a file, or the slices of a volume; None where a mask has other numbers than ``labels``.

    Raises UnreadableFileError.
    """
    found: list[MaskedImage | None] = []
    for number, (pixels, known) in enumerate(read_masked(path, mask, labels=labels)):
        # An image's is that which it has without a mask: it is one example, whatever task it is for.
        what = f"{pixels.shape}" if pixels.ndim == 3 else f"{pixels.shape} {pixels.dtype}"
        digest = hashlib.sha256(what.encode() + pixels.tobytes()).hexdigest()
        one = MaskedImage(digest, path, mask, number if is_volume(path) else None)
        found.append(None if known is None else one)
    return found


def read_masked(
    path: Path, mask: Path, *, labels: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8] | None]]:
    """An image, or each slice of a volume, with its mask: the numbers of labels, uint8[height, width].

    Images are uint8[height, width, 3]; slices float32[height, width], in the unit of the file, across the
    third axis of the volume as it is turned to right, front and top (RAS). Of two labels, 255 is the second
    one. A mask with other numbers is None: what one slice holds says nothing of the next. Raises
    UnreadableFileError, naming what is wrong with either file.
    """
    numbers = read_volume(mask, "its mask ").values if is_volume(mask) else _read_mask(mask)[:, :, None]
    pixels = read_volume(path, "").values if is_volume(path) else read_pixels(path)[:, :, None]
    if pixels.shape[:3] != numbers.shape:
        raise UnreadableFileError(_DIFFERS)
    return ((pixels[:, :, n], known_labels(numbers[:, :, n], labels)) for n in range(numbers.shape[2]))


def known_labels(numbers: NDArray[Any], labels: int) -> NDArray[np.uint8] | None:
    """A mask's numbers as those of ``labels``, from 0 on; None if one is another.

    Of two labels, 255 is the second.
    """
    if labels == 2:
        numbers = np.where(numbers == 255, 1, numbers)
    whole = np.isfinite(numbers) & (numbers >= 0) & (numbers < labels) & (numbers == np.floor(numbers))
    return numbers.astype(np.uint8) if whole.all() else None


def _read_mask(path: Path) -> NDArray[Any]:
    """The numbers in an image file as they stand there, [height, width]; of a palette its places."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "TIFF")) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UnreadableFileError(f"has a mask with more than {MOST_PIXELS:,} pixels")
            if opened.mode not in _PLAIN:
                raise UnreadableFileError("has a mask in colours: expected a number for each pixel")
            return np.asarray(opened)
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError("has no mask: no such file is there") from None
    except UnidentifiedImageError:
        raise UnreadableFileError("has a mask that is no PNG, TIFF or NIfTI") from None
    except Exception:  # Pillow's decoders raise whatever they like on damaged files
        raise UnreadableFileError("has a mask that is damaged, or was not written whole") from None


@dataclass(frozen=True, kw_only=True)
class MaskedShape:
    """What images with masks become: pixels as ``image`` says, of volumes from ``low`` to ``high``."""

    image: ImageShape
    labels: int
    low: float
    high: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each channel says, in words."""
        ends = f"; of volumes {self.low:g} to {self.high:g} as 0 to 255"
        return tuple(said + ends for said in self.image.inputs)

    def encode(self, contents: Iterable[MaskedImage | None]) -> dict[str, NDArray[np.uint8]]:
        """Images as ``values``, uint8[n, channels, size, size], and ``mask``, uint8[n, size, size].

        What can no longer be read becomes zeros.
        """
        whole, size = list(contents), self.image.size
        values = np.zeros((len(whole), *self.shape), np.uint8)
        masks = np.zeros((len(whole), size, size), np.uint8)
        last: tuple[Path, Path] | None = None
        slices: list[tuple[NDArray[Any], NDArray[np.uint8] | None]] = []
        for place, content in enumerate(whole):
            if content is None:
                continue
            try:
                if last != (content.path, content.mask):  # slices of a volume follow one another
                    last, slices = (content.path, content.mask), []
                    slices = list(read_masked(content.path, content.mask, labels=self.labels))
                pixels, mask = slices[content.number or 0]
                if mask is not None:
                    found = self.image.scaled(self._as_pixels(pixels)), self._fitted(mask)
                    values[place], masks[place] = found
            except (OSError, ValueError, IndexError):
                continue  # its row decides about itself alone, and it was readable when the data were read
        return {"values": values, "mask": masks}

    def _as_pixels(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if pixels.ndim == 3:
            return pixels
        known = np.nan_to_num(pixels, nan=self.low, posinf=self.high, neginf=self.low)
        scaled = 255 * (np.clip(known, self.low, self.high) - self.low) / (self.high - self.low)
        return np.repeat(np.rint(scaled).astype(np.uint8)[:, :, None], 3, axis=2)

    def _fitted(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        return np.asarray(fitted(Image.fromarray(mask), self.image.size, nearest=True))

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        ends = {"low": self.low, "high": self.high}
        return {"image": self.image.as_table(), "labels": self.labels, **ends}
