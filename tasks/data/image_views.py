"""Images from several sides: views of one image that are one example together, of one gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples

_FAR = 8  # a view is moved by this part of a side

# By name: what is made of pixels [b, channels, size, size].
VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mirrored": lambda pixels: pixels.flip(-1),
    "upside-down": lambda pixels: pixels.flip(-2),
    "turned-left": lambda pixels: pixels.rot90(1, (-2, -1)),
    "turned-right": lambda pixels: pixels.rot90(-1, (-2, -1)),
    "moved-left": lambda pixels: _moved(pixels, -1, axis=-1),
    "moved-right": lambda pixels: _moved(pixels, 1, axis=-1),
    "moved-up": lambda pixels: _moved(pixels, -1, axis=-2),
    "moved-down": lambda pixels: _moved(pixels, 1, axis=-2),
}


def seen_from(pixels: torch.Tensor, views: Sequence[str]) -> torch.Tensor:
    """Images, [b, channels, size, size], and after each its views: [b · (1 + views), channels, …]."""
    sides = [pixels, *(VIEWS[view](pixels) for view in views)]
    return torch.stack(sides, dim=1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class ViewedExamples(Examples):
    """The examples of ``once``, of each of which a model makes ``together`` rows, one a view."""

    once: Examples
    together: int
    labels: NDArray[np.int64] | None

    @classmethod
    def of(cls, once: Examples, views: Sequence[str]) -> Examples:
        """The examples with so many views of each; as they are without any."""
        return cls(once=once, together=1 + len(views), labels=once.labels) if views else once

    @property
    def rows_an_example(self) -> int:
        return self.together

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self.once.sizes

    @property
    def nbytes(self) -> int:
        return self.once.nbytes

    def take(self, indices: NDArray[np.int64]) -> ViewedExamples:
        once = self.once.take(indices)
        return replace(self, once=once, labels=once.labels)

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """As of ``once``: views are made where the model runs."""
        return replace(self.once.batch(indices, size=size, rows=rows), rows_an_example=self.together)


def _moved(pixels: torch.Tensor, towards: int, *, axis: int) -> torch.Tensor:
    """Moved along an axis, -1 or 1 ``towards`` its start or end; what comes in at the edge is black."""
    by = pixels.shape[axis] // _FAR
    found = torch.zeros_like(pixels)
    length = pixels.shape[axis] - by
    first, last = (by, 0) if towards < 0 else (0, by)
    found.narrow(axis, last, length).copy_(pixels.narrow(axis, first, length))
    return found
