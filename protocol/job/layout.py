"""The adapter's layout: which tensor lies where in its vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError


@dataclass(frozen=True, kw_only=True)
class TensorSlot:
    """One tensor of the adapter.

    ``trained`` is false where the strategy keeps it frozen. One that is ``local`` is trained, and each site
    has its own, which never leaves it.
    """

    name: str
    shape: tuple[int, ...]
    trained: bool
    local: bool = False

    @property
    def sent(self) -> bool:
        """Whether its change is in what sites send."""
        return self.trained and not self.local

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """The adapter's tensors in order of name.

    Vectors are laid out by it: the **adapter**, every tensor, an **update**, the tensors only that sites
    train and send, and what is **local**, those that stay at a site. All are float32, tensors one after
    another, each in row-major order.
    """

    slots: tuple[TensorSlot, ...]

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if names != sorted(set(names)):
            raise ProtocolError("expected a layout of distinct tensor names in order")

    @property
    def adapter_size(self) -> int:
        return sum(slot.size for slot in self.slots)

    @property
    def update_size(self) -> int:
        return sum(slot.size for slot in self.slots if slot.sent)

    @property
    def local_size(self) -> int:
        return sum(slot.size for slot in self.slots if slot.local)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, what is trained and what stays at a site, as hex."""
        canonical = json.dumps(
            [[s.name, list(s.shape), s.trained, *(["local"] if s.local else [])] for s in self.slots]
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def split(self, adapter: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut an adapter vector, float32[adapter_size], into its tensors (views)."""
        return dict(self._cut(adapter, self.slots, self.adapter_size))

    def split_update(self, update: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut an update vector, float32[update_size], into its tensors (views)."""
        sent = tuple(slot for slot in self.slots if slot.sent)
        return dict(self._cut(update, sent, self.update_size))

    def join(self, tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Lay tensors out as one adapter vector. Raises ProtocolError if one is missing or odd."""
        expected = {slot.name: slot.shape for slot in self.slots}
        given = {name: tensor.shape for name, tensor in tensors.items()}
        if expected != given:
            odd = sorted(
                name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)
            )
            raise ProtocolError(f"adapter tensors differ from the layout: {', '.join(odd[:5])}")
        flat = [np.asarray(tensors[s.name], np.float32).ravel() for s in self.slots]
        return np.concatenate(flat) if flat else np.zeros(0, np.float32)

    def apply(self, adapter: NDArray[np.float32], update: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add an update to the tensors of an adapter that it is of; a new vector."""
        tensors = {name: tensor.copy() for name, tensor in self.split(adapter).items()}
        for name, change in self.split_update(update).items():
            tensors[name] += change
        return self.join(tensors)

    def change(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far it is from one adapter to another in what is sent: the update for ``apply``."""
        start, end = self.split(before), self.split(after)
        moved = [(end[slot.name] - start[slot.name]).ravel() for slot in self.slots if slot.sent]
        return np.concatenate(moved) if moved else np.zeros(0, np.float32)

    def local_part(self, adapter: NDArray[np.float32]) -> NDArray[np.float32]:
        """What stays at a site of the adapter that it trains: float32[local_size]."""
        kept = [tensor.ravel() for name, tensor in self.split(adapter).items() if name in self._local]
        return np.concatenate(kept) if kept else np.zeros(0, np.float32)

    def with_local(self, adapter: NDArray[np.float32], local: NDArray[np.float32]) -> NDArray[np.float32]:
        """An adapter with a site's own tensors, float32[local_size], in their places; a new vector."""
        slots = tuple(slot for slot in self.slots if slot.local)
        return self.join(self.split(adapter) | dict(self._cut(local, slots, self.local_size)))

    @cached_property
    def _local(self) -> frozenset[str]:
        return frozenset(slot.name for slot in self.slots if slot.local)

    @staticmethod
    def _cut(
        vector: NDArray[np.float32], slots: tuple[TensorSlot, ...], size: int
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        if vector.shape != (size,):
            raise ProtocolError(f"expected a vector of {size} numbers, got shape {vector.shape}")
        start = 0
        for slot in slots:
            yield slot.name, vector[start : start + slot.size].reshape(slot.shape)
            start += slot.size
