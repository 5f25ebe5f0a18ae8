"""Image files as people have them: pixels of one public size, or the reason why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.dicom_file import is_dicom
from tasks.data.dicom_image import read_dicom_image
from tasks.data.named_files import FileKind, UnreadableFileError

FORMATS = ("JPEG", "PNG", "TIFF")
_OTHER = {True: "is no JPEG, PNG, TIFF or DICOM", False: "is no JPEG, PNG or TIFF"}  # in a file, or not
# What a larger one would take to unpack is more than a photograph's worth: 64 million pixels.
MOST_PIXELS = 1 << 26
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image by the SHA-256 of its pixels, as hex: two files with the same pixels are one example.

    ``source`` is the file, or what a file holds.
    """

    digest: str
    source: Path | bytes = field(compare=False, repr=False)


def find_image(source: Path | bytes) -> ImageFile:
    """The image in a file, or in what a file holds. Raises UnreadableFileError."""
    pixels = read_pixels(source)
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return ImageFile(digest, source)


_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm")
IMAGES = FileKind(called="images", suffixes=_SUFFIXES, find=find_image)


def read_pixels(source: Path | bytes) -> NDArray[np.uint8]:
    """The pixels in a file, or in what it holds, uint8[height, width, 3], turned as its camera says.

    Of several frames or pages the first counts, of 16 bits the upper eight, and what is transparent is
    black. DICOM, in a file alone, is seen by its own window. Raises UnreadableFileError for what is empty,
    damaged, cut off, of another format, of floating-point numbers, or larger than 64 million pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not (source.stat().st_size if isinstance(source, Path) else len(source)):
            raise UnreadableFileError("is empty")
        if isinstance(source, Path) and is_dicom(source):
            return read_dicom_image(source, most=MOST_PIXELS)
        with Image.open(source if isinstance(source, Path) else BytesIO(source), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UnreadableFileError(f"has more than {MOST_PIXELS:,} pixels")
            opened.load()
            turned: Any = ImageOps.exif_transpose(opened)
            return _as_colours(turned)
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError("is not there") from None
    except UnidentifiedImageError:
        raise UnreadableFileError(_OTHER[isinstance(source, Path)]) from None
    except Image.DecompressionBombError:
        raise UnreadableFileError(f"has more than {MOST_PIXELS:,} pixels") from None
    except Exception:  # Pillow's decoders raise whatever they like on damaged files
        raise UnreadableFileError("is damaged, or was not written whole") from None


def _as_colours(image: Any) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode in _SIXTEEN_BITS:
        upper = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(upper[:, :, None], 3, axis=2)
    if image.mode == "I":  # 32 bits, in which some write 16
        upper = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(upper[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise UnreadableFileError("holds floating-point numbers, whose range it does not tell")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
    return np.asarray(image.convert("RGB"))


def fitted(image: Any, size: int, *, nearest: bool = False) -> Any:
    """An image scaled to fit in ``size`` by ``size``, its proportions kept, with 0 on both sides.

    Where numbers stand for labels the ``nearest`` one is taken: between two there is no third.
    """
    from PIL import Image

    # A side of a pixel at least: what is very thin is still there.
    sides = [max(1, round(side * size / max(image.size))) for side in image.size]
    way = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    inner = image.resize((sides[0], sides[1]), way)
    whole = Image.new(inner.mode, (size, size))
    whole.paste(inner, ((size - sides[0]) // 2, (size - sides[1]) // 2))
    return whole


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What images become: ``size`` by ``size`` pixels, grey or in ``colours``, from 0 to 255.

    A model is given (pixel / 255 - ``mean``) / ``deviation``, which are one number a channel or for all. It
    sees each image as it is and from ``views``, by their names.
    """

    size: int
    colours: bool
    mean: tuple[float, ...] = (0.5,)
    deviation: tuple[float, ...] = (0.5,)
    views: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (3 if self.colours else 1), self.size, self.size

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each channel says, in words."""
        names = ("red", "green", "blue") if self.colours else ("grey",)
        return tuple(
            f"{name}, 0 to 255 as -1 to 1, after scaling to fit and black beside it" for name in names
        )

    def encode(self, contents: Iterable[ImageFile | None]) -> NDArray[np.uint8]:
        """Images as uint8[n, channels, size, size]; one that can no longer be read becomes zeros."""
        whole = list(contents)
        found = np.zeros((len(whole), *self.shape), np.uint8)
        for place, content in enumerate(whole):
            try:
                if content is not None:
                    found[place] = self.scaled(read_pixels(content.source))
            except (OSError, ValueError):
                continue  # its row decides about itself alone, and it was readable when the data were read
        return found

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels scaled to fit in the size, their proportions kept, with black on both sides."""
        from PIL import Image

        image = Image.fromarray(pixels)
        whole = fitted(image if self.colours else image.convert("L"), self.size)
        return np.asarray(whole).reshape(self.size, self.size, -1).transpose(2, 0, 1)

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        scale = {"mean": list(self.mean), "deviation": list(self.deviation)}
        return {"size": self.size, "colours": self.colours, **scale}
