"""Examples that a model can be run on, and batches of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A padded batch: the model's ``inputs`` by name, each with a row an example, [b, …].

    The first rows are the examples at ``indices``; rows after them are blank and stand for nobody.
    ``size`` is what each row is padded to. Where the model makes several rows of each example,
    ``rows_an_example``, an example's follow one another. Where what the model makes of them is ``kept``, it
    looks at no input.
    """

    inputs: Mapping[str, torch.Tensor]
    indices: NDArray[np.int64]
    size: int
    rows_an_example: int = 1
    kept: bool = False

    def given(self, name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What the model is given: what is made of an input, or a zero a row where it looks at none."""
        found = self.inputs[name]
        if self.kept:
            return found.new_zeros((len(found) * self.rows_an_example, 1), dtype=torch.float32)
        return make(found)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(self, inputs={name: tensor.to(device) for name, tensor in self.inputs.items()})

    def beside(self, **more: torch.Tensor) -> Batch:
        """The same batch with more inputs, [b, …] each."""
        return replace(self, inputs={**self.inputs, **more})

    def apart(self) -> Iterator[Batch]:
        """Each example in a batch of this very shape, with blank rows in the others' places.

        Where the batch has no blank row, its own is repeated.
        """
        for row, index in enumerate(self.indices):
            blank = len(self.indices) if len(self) > len(self.indices) else row
            rows = torch.tensor([row] + [blank] * (len(self) - 1))
            inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
            yield replace(self, inputs=inputs, indices=np.array([index]))


class Examples(ABC):
    """n examples. ``labels`` is int64[n], None for a task without any.

    Of each a model makes ``rows_an_example``, as in its batches.
    """

    labels: NDArray[np.int64] | None

    @property
    def rows_an_example(self) -> int:
        return 1

    @property
    @abstractmethod
    def sizes(self) -> NDArray[np.int64]:
        """How large each is, int64[n]. One of size 0 is blank: it counts, and is in no batch."""

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at ``indices``, in that order."""

    @abstractmethod
    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """The examples at ``indices``, padded to ``size``, or to the largest among them.

        None of them may be blank. Rows that stand for nobody bring their number up to ``rows``; the model
        must be able to compute them.
        """

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def nbytes(self) -> int:
        """The memory that the arrays among its attributes take."""
        return sum(int(getattr(value, "nbytes", 0)) for value in vars(self).values())

    def without_blanks(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the examples at ``indices`` that hold anything."""
        return indices[self.sizes[indices] > 0]

    def batches(self, indices: NDArray[np.int64], *, rows: int) -> Iterator[Batch]:
        """Batches of at most so many ``rows``, similar sizes together so that little is padded."""
        by_size = indices[np.argsort(self.sizes[indices], kind="stable")]
        for start in range(0, len(by_size), rows):
            yield self.batch(by_size[start : start + rows])


def positions(offsets: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the examples at ``indices`` are in a ragged store, in which i is from ``offsets[i]`` on."""
    lengths = offsets[indices + 1] - offsets[indices]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    found: NDArray[np.int64] = np.repeat(offsets[indices], lengths) + within
    return found


def offsets_of(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in a ragged store examples of these sizes begin, and where the last one ends: int64[n + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
