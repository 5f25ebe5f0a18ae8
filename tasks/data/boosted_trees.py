"""Decision trees that somebody boosted, frozen: which leaf of each tree a row of numbers comes to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privacy.canonical import canonical_json

# What LightGBM counts as zero, the number of 32 bits that is nearest to 1e-35.
_ZERO = float(np.float32(1e-35))
_ROWS = 1 << 14  # at once: what is between takes room


class Missing(IntEnum):
    """What a node takes for missing: nothing, zero, or what is no number. The numbers are LightGBM's."""

    NOTHING = 0
    ZERO = 1
    NAN = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """k nodes, the root first, and k + 1 leaves.

    Node i sends a row on by the number at ``features[i]``: to ``left[i]`` if that is at most
    ``thresholds[i]``, else to ``right[i]``; a missing one to the left if ``missing_left[i]``. A child that
    is 0 or more is a node, and comes after its parent; leaf j is written as -1 - j.
    """

    features: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    missing: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    @property
    def leaves(self) -> int:
        return len(self.features) + 1

    @cached_property
    def depth(self) -> int:
        """How many nodes the longest way to a leaf has."""
        found = np.ones(len(self.features), np.int64)
        for node, children in enumerate(zip(self.left, self.right, strict=True)):
            for child in children:
                if child >= 0:
                    found[child] = found[node] + 1
        return int(found.max(initial=0))

    def leaf_of(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The leaf that each row of float64[n, names] comes to, int64[n].

        Every row takes as many steps as the longest way has: how long it takes says nothing of rows.
        Source: ``NumericalDecision`` in LightGBM's ``include/LightGBM/tree.h``.
        """
        at = np.full(len(values), 0 if len(self.features) else -1, np.int64)
        rows = np.arange(len(values))
        for _ in range(self.depth):
            node = np.maximum(at, 0)
            value, kind = values[rows, self.features[node]], self.missing[node]
            unknown = np.isnan(value)
            value = np.where(unknown & (kind != Missing.NAN), 0.0, value)
            lacking = (kind == Missing.NAN) & unknown | (kind == Missing.ZERO) & (np.abs(value) <= _ZERO)
            to_left = np.where(lacking, self.missing_left[node], value <= self.thresholds[node])
            at = np.where(at < 0, at, np.where(to_left, self.left[node], self.right[node]))
        return -1 - at


@dataclass(frozen=True, kw_only=True, eq=False)
class BoostedTrees:
    """Trees in order, and the ``names`` of the numbers that they read, in order."""

    names: tuple[str, ...]
    trees: Sequence[Tree]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many leaves each tree has."""
        return tuple(tree.leaves for tree in self.trees)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that decides a row's leaves, however the file writes it."""
        parts = [part.name for part in fields(Tree)]
        trees = [{name: getattr(tree, name).tolist() for name in parts} for tree in self.trees]
        return hashlib.sha256(canonical_json({"names": list(self.names), "trees": trees})).hexdigest()

    def leaves_of(self, values: NDArray[np.float64]) -> NDArray[np.int16]:
        """Each row's leaf in each tree, int16[n, trees], from 0; NaN is what is missing.

        A row's leaves follow from that row alone.
        """
        found = np.zeros((len(values), len(self.trees)), np.int16)
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS]
            # LightGBM keeps no number that is so near to zero of a row that it predicts.
            part = np.where(np.abs(part) <= _ZERO, 0.0, part)
            for number, tree in enumerate(self.trees):
                found[start : start + _ROWS, number] = tree.leaf_of(part)
        return found
