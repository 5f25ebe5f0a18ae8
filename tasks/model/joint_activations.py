"""Kept activations of several owners' examples, in batches that these share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

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
        spares = np.concatenate(spare)
        # A store may hold more than its owner trains on.
        spares = spares[self._examples.sizes[spares] > 0]
        whole = shapes.filled_up(self._examples, np.concatenate(missing), spares)
        for batch in shapes.batches(self._examples, whole):
            for part, found in self._stores[0].compute(batch):
                start = 0
                for owner, own in self._examples.by_owner(part.indices):
                    self._stores[owner].keep(own, found.part(start, start + len(own)), size=part.size)
                    start += len(own)

    @contextmanager
    def replay(self, batch: Batch) -> Iterator[Batch]:
        """Run the adapted layers on ``batch`` (on the device) from kept activations."""
        runs = [
            (self._stores[owner], replace(batch, inputs={}, indices=own))
            for owner, own in self._examples.by_owner(batch.indices)
        ]
        hidden = [store.fetch(own, rows=len(own.indices)) for store, own in runs]
        known = [store.fetch_reference(own, rows=len(own.indices)) for store, own in runs]
        reference = [each for each in known if each is not None]
        blank = len(batch) - len(batch.indices)
        with self._stores[0].starting_at(
            _with_blanks(hidden, blank), batch, _with_blanks(reference, blank) if reference else None
        ) as whole:
            yield whole


def _with_blanks(parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """The parts one after another, and so many rows of zeros after them."""
    return torch.cat([*parts, parts[0].new_zeros((count, *parts[0].shape[1:]))])
