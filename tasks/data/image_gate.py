"""Which images a custodian lets into training: rules on each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks.data.image_files import read_pixels
from tasks.task import TaskKeys

# Sharpness depends on how many pixels an image is looked at with.
_SIDE = 256

Brightness = Annotated[float, Field(ge=0, le=1)]


class ImageGate(TaskKeys):
    """Of an image in greys from 0 to 1, no side longer than 256 pixels.

    ``darkest`` and ``brightest`` bound the mean, ``least_contrast`` the standard deviation, and
    ``least_sharpness`` the variance of its Laplacian: blur takes the edges out. (Pech-Pacheco et al. 2000,
    Diatom autofocusing in brightfield microscopy.)
    """

    darkest: Brightness | None = None
    brightest: Brightness | None = None
    least_contrast: Annotated[float, Field(gt=0, le=0.5)] | None = None
    least_sharpness: Annotated[float, Field(gt=0, le=16)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.darkest is not None and self.brightest is not None and self.darkest > self.brightest:
            raise ValueError("darkest: expected no more than brightest")
        return self

    def fault(self, source: Path | bytes) -> str | None:
        """Why the image in a file stays out; None if it passes. Raises UnreadableFileError."""
        greys = _greys(read_pixels(source))
        mean = float(greys.mean())
        if self.darkest is not None and mean < self.darkest:
            return f"the gate: darker than {self.darkest:g}"
        if self.brightest is not None and mean > self.brightest:
            return f"the gate: brighter than {self.brightest:g}"
        if self.least_contrast is not None and float(greys.std()) < self.least_contrast:
            return f"the gate: its contrast is under {self.least_contrast:g}"
        if self.least_sharpness is not None and sharpness(greys) < self.least_sharpness:
            return f"the gate: its sharpness is under {self.least_sharpness:g}"
        return None


def sharpness(greys: NDArray[np.float64]) -> float:
    """The variance of the Laplacian of float64[height, width]; 0 for an image that has no inside."""
    if min(greys.shape) < 3:
        return 0.0
    inside = greys[1:-1, 1:-1]
    beside = greys[:-2, 1:-1] + greys[2:, 1:-1] + greys[1:-1, :-2] + greys[1:-1, 2:]
    return float((beside - 4 * inside).var())


def _greys(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    from PIL import Image

    image = Image.fromarray(pixels).convert("L")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image, np.float64) / 255
