"""Columns of a table with the leaves that public trees send a row to (He et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ModelError
from protocol.plain_text import quoted_some
from tasks.data.boosted_trees import BoostedTrees
from tasks.data.feature_columns import Cells, FeatureColumns, number_in

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LeafColumns:
    """A row's numbers as ``features`` has them, and beside them its leaf in each of the ``trees``.

    What is kept of a leaf is one number a tree, its own and 1, and 0 for none: ``opened`` makes an input of
    each leaf of it when a batch is computed. Source: He et al. 2014, Practical Lessons from Predicting
    Clicks on Ads at Facebook.
    """

    features: FeatureColumns
    trees: BoostedTrees

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is kept of an example."""
        return (self.features.width + len(self.trees.trees),)

    @property
    def width(self) -> int:
        """How many numbers a network reads."""
        return self.features.width + sum(self.trees.sizes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of a network's inputs says, in words; trees and leaves count from 0, as in LightGBM."""
        leaves = (
            f"leaf {leaf} of tree {tree}"
            for tree, size in enumerate(self.trees.sizes)
            for leaf in range(size)
        )
        return (*self.features.inputs, *leaves)

    @property
    def columns(self) -> tuple[str, ...]:
        """Which column, or which tree, each number is of that is kept."""
        return (*self.features.columns, *(f"data.trees[{tree}]" for tree in range(len(self.trees.trees))))

    def check(self) -> None:
        """Raises ModelError for trees that read anything but numbers that are declared."""
        strange = [name for name in self.trees.names if name not in self.features.numbers]
        if strange:
            raise ModelError(
                "data.trees: expected feature_names to be columns that data.numbers declares, got "
                f"{quoted_some(strange)}"
            )

    def encode(self, rows: Iterable[Cells | None]) -> NDArray[np.float32]:
        """Rows as float32[n, *shape]; a row that holds nothing becomes zeros, with no leaf.

        Trees read what a cell says, before it has a place in its range: so they were trained. One that is
        missing is NaN to them. Raises DataError for columns that the data were read without.
        """
        whole = list(rows)
        values = self.features.encode(whole)
        numbers = np.array([self._numbers(row) for row in whole], np.float64)
        places = self.trees.leaves_of(numbers.reshape(len(whole), len(self.trees.names))) + 1
        places[[row is None for row in whole]] = 0
        return np.concatenate([values, places], axis=1, dtype=np.float32)

    def opened(self, values: torch.Tensor) -> torch.Tensor:
        """What a network reads, [b, width], of what is kept, [b, *shape]: 1 for each leaf of the row's."""
        import torch

        tree, place = (torch.from_numpy(part).to(values.device) for part in self._leaves)
        first = self.features.width
        chosen = values[:, first:][:, tree] == place
        return torch.cat([values[:, :first], chosen.to(values.dtype)], dim=1)

    def with_any_leaves(
        self, values: NDArray[np.float32], random: np.random.Generator
    ) -> NDArray[np.float32]:
        """Rows as they are kept, float32[n, *shape], with leaves that are drawn, or none."""
        most = np.array(self.trees.sizes) + 1
        places = random.integers(0, most, (len(values), len(most)))
        return np.concatenate([values[:, : self.features.width], places.astype(np.float32)], axis=1)

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it; trees by their digest."""
        return {**self.features.as_table(), "trees": self.trees.digest}

    @cached_property
    def _leaves(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Of each input of a leaf, its tree, and what is kept of a row that is there."""
        sizes = self.trees.sizes
        places = [np.arange(1, size + 1, dtype=np.float32) for size in sizes]
        return np.repeat(np.arange(len(sizes)), sizes), np.concatenate(places)

    def _numbers(self, row: Cells | None) -> list[float]:
        cells: Mapping[str, str] = dict(row or ())
        found = [number_in(cells.get(name)) for name in self.trees.names]
        return [math.nan if value is None else value for value in found]
