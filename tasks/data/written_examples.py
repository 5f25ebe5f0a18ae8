"""Prompts whose answers are written when they are first in a batch, and kept from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples, offsets_of
from tasks.data.token_examples import TokenExamples

# From places among the prompts to each with its answers, an example each.
Write = Callable[[Sequence[int]], Sequence[TokenExamples]]


class WrittenExamples(Examples):
    """The ``prompts``, each with the answers that ``write`` finds for it, asked once for each.

    Sizes are those of the prompts, which have places for the longest answers.
    """

    labels = None

    def __init__(self, prompts: TokenExamples, write: Write) -> None:
        self._prompts, self._write = prompts, write
        self._known: dict[int, TokenExamples] = {}

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._prompts.sizes

    def take(self, indices: NDArray[np.int64]) -> WrittenExamples:
        return WrittenExamples(
            self._prompts.take(indices), lambda places: self._with_answers(indices[list(places)].tolist())
        )

    def write(self, index: int) -> None:
        """Ask for one example's answers, if they are not there yet."""
        self._with_answers([index])

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """As of ``TokenExamples``; what is missing of answers is written first."""
        size = size or int(self.sizes[indices].max())
        found = side_by_side(self._with_answers(indices.tolist()))
        return replace(found.batch(np.arange(len(indices)), size=size, rows=rows), indices=indices)

    def _with_answers(self, places: Sequence[int]) -> list[TokenExamples]:
        missing = [place for place in dict.fromkeys(places) if place not in self._known]
        self._known |= zip(missing, self._write(missing), strict=True)
        return [self._known[place] for place in places]


def side_by_side(parts: Sequence[TokenExamples]) -> TokenExamples:
    """The examples of all ``parts``, of one kind, one after another."""

    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    names = ("tokens", "labels", "learned", "targets", "token_labels", "branches")
    sizes = np.concatenate([part.sizes for part in parts])
    return replace(parts[0], offsets=offsets_of(sizes), **{name: joined(name) for name in names})
