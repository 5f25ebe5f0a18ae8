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
        """Compute what is not yet kept, in batches that owners share: see ``Activations.fill``."""
        offsets = self._examples.offsets
        owners = self._examples.owners(indices)
        missing, spare = [indices[:0]], [indices[:0]]
        for owner in np.unique(owners):
            store, first = self._stores[owner], offsets[owner]
            lacking = store.missing(indices[owners == owner] - first, shapes)
            missing.append(lacking + first)
            spare.append(store.unknown(beside=lacking) + first)
        whole = shapes.filled_up(self._examples, np.concatenate(missing), np.concatenate(spare))
        for batch in shapes.batches(self._examples, whole):
            for part, hidden in self._stores[0].compute(batch):
                start = 0
                for owner, own in self._examples.by_owner(part.indices):
                    self._stores[owner].keep(own, hidden[start : start + len(own)], size=part.size)
                    start += len(own)

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
