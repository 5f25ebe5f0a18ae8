"""Kept activations of several owners' examples, in batches that these share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch
from tasks.data.joint_examples import JointExamples
from tasks.data.shapes import Shapes
from tasks.model.frozen_prefix import Activations


class JointActivations:
    """Each owner's own store, in the order of the parts of ``examples``."""

    def __init__(self, examples: JointExamples, stores: Sequence[Activations]) -> None:
        self._examples, self._stores = examples, tuple(stores)

    def fill(self, indices: NDArray[np.int64], shapes: Shapes) -> None:
        """Compute what is not yet kept: see ``Activations.fill``."""
        owners = self._examples.owners(indices)
        for owner in np.unique(owners):
            self._stores[owner].fill(indices[owners == owner] - self._examples.offsets[owner], shapes)

    @contextmanager
    def replay(self, batch: Batch) -> Iterator[None]:
        """Run the adapted layers on ``batch`` (on the device) from kept activations."""
        runs = self._examples.by_owner(batch.indices)
        parts = [
            self._stores[owner].fetch(Batch(inputs={}, indices=own, size=batch.size), rows=len(own))
            for owner, own in runs
        ]
        first = parts[0]
        parts.append(first.new_zeros((len(batch) - len(batch.indices), *first.shape[1:])))
        with self._stores[0].starting_at(torch.cat(parts)):
            yield
