"""The adapter's layout: which tensor lies where in its vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError

# How the factors of an adapted layer end, and what a rule adds to the layer's own weight beside them.
FACTOR_A, FACTOR_B, RESIDUAL = ".lora_A.weight", ".lora_B.weight", ".residual.weight"
CORE = ".lora_C.weight"  # what some rules train between the two
# What a head's features are less, and then times: public numbers, which nobody trains.
FEATURE_MEAN, FEATURE_SCALE = ".features.mean", ".features.scale"
# The weights that all experts of a layer have in one, in the order in which a token meets them. Each expert
# is a layer to itself here: its factors are named WEIGHT.NUMBER.
FUSED = ("gate_up_proj", "down_proj")


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
class Pair:
    """The names of one adapted layer's tensors: A [rank, in], B [out, rank], the residual [out, in].

    What the layer computes with beside its own weight is a multiple of residual + B·A. Most rules have no
    residual.
    """

    a: str
    b: str
    residual: str


def _matrix(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return tensor.reshape(len(tensor), -1) if name.endswith((FACTOR_A, FACTOR_B)) else tensor


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """The adapter's tensors in order of name.

    Vectors are laid out by it: the **adapter**, every tensor, an **update**, the tensors only that sites
    train and send, and what is **local**, those that stay at a site. All are float32, tensors one after
    another, each in row-major order. An update may be longer than its tensors, which ``length`` says: then
    zeros follow them. A strategy that sends something else than what it trains fills an update in its own
    way.
    """

    slots: tuple[TensorSlot, ...]
    length: int | None = None

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if names != sorted(set(names)):
            raise ProtocolError("expected a layout of distinct tensor names in order")

    @property
    def adapter_size(self) -> int:
        return sum(slot.size for slot in self.slots)

    @property
    def trained_size(self) -> int:
        """How many numbers are trained, those that stay at the site among them."""
        return sum(slot.size for slot in self.slots if slot.trained)

    @property
    def local_size(self) -> int:
        return sum(slot.size for slot in self.slots if slot.local)

    @property
    def update_size(self) -> int:
        """How many numbers a site sends of a round, before any is left out."""
        tensors = sum(slot.size for slot in self.slots if slot.sent)
        return tensors if self.length is None else self.length

    @cached_property
    def digest(self) -> str:
        """SHA-256, as hex, over names, shapes, what is trained, what is local and how much is sent."""
        slots: list[object] = [
            [s.name, list(s.shape), s.trained, *(["local"] if s.local else [])] for s in self.slots
        ]
        canonical = json.dumps(slots if self.length is None else [*slots, self.length])
        return hashlib.sha256(canonical.encode()).hexdigest()

    def narrowed(self, trains: Callable[[str], bool]) -> AdapterLayout:
        """The same tensors, fewer of them trained: those that ``trains`` says. Updates stay as long."""
        slots = (replace(slot, trained=slot.trained and trains(slot.name)) for slot in self.slots)
        return replace(self, slots=tuple(slots), length=self.update_size)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The layers that have both factors, in order."""
        names = {slot.name for slot in self.slots}
        layers = [slot.name.removesuffix(FACTOR_A) for slot in self.slots if slot.name.endswith(FACTOR_A)]
        return tuple(
            Pair(a=layer + FACTOR_A, b=layer + FACTOR_B, residual=layer + RESIDUAL)
            for layer in layers
            if layer + FACTOR_B in names
        )

    def split(self, adapter: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut an adapter vector, float32[adapter_size], into its tensors (views)."""
        return dict(self._cut(adapter, self.slots, self.adapter_size))

    def matrices(self, adapter: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """An adapter's tensors (views), each layer's factors as matrices: B · A is the layer's product.

        On a convolution A has a kernel, and B is one place wide: so they are here [rank, in · kernel] and
        [out, rank].
        """
        return {name: _matrix(name, tensor) for name, tensor in self.split(adapter).items()}

    def split_update(self, update: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut an update vector, float32[update_size], into its tensors (views).

        Raises ProtocolError for another size, and if its tensors are more than is sent in one round.
        """
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
        """How far it is from one adapter to another in what is sent: the update for ``apply``.

        Raises ProtocolError if that is more than is sent in one round.
        """
        start, end = self.split(before), self.split(after)
        update = np.zeros(self.update_size, np.float32)
        for name, part in self.split_update(update).items():
            part[...] = end[name] - start[name]
        return update

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
        needed = sum(slot.size for slot in slots)
        if needed > size:
            raise ProtocolError(f"expected tensors of {size} numbers at most, got {needed}")
        start = 0
        for slot in slots:
            yield slot.name, vector[start : start + slot.size].reshape(slot.shape)
            start += slot.size
