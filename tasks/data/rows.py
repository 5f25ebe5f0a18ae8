"""The rows of a data set as they were read, before a model sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Why a row is blank, whatever the model.
NO_CONTENT = "no content, or none that can be read"
NO_LABEL = "no label, or one that is not declared"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n rows. None stands for what is missing or cannot be decoded.

    ``contents`` are what the examples are, apart from their labels: equal ones are one example written
    twice. They can be sorted. ``labels`` are None for data without any.
    """

    contents: tuple[Any, ...]
    labels: tuple[str | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.contents)

    def take(self, places: Iterable[int]) -> Rows:
        """The rows at these places, in that order."""
        chosen = list(places)
        return Rows(
            contents=tuple(self.contents[place] for place in chosen),
            labels=None if self.labels is None else tuple(self.labels[place] for place in chosen),
        )
