"""What a simulation keeps of its sites because it takes long to make, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by their keys, no more than ``limit`` bytes of them.

    What came first stays, and what finds no room is made each time. Sites are asked in one order in each
    round: where not all fit, room for what was used last would be taken from what is asked for next, and
    nothing would ever be found. So the share that fits is found, in whatever order sites are asked.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._values: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V], *, size: Callable[[V], int]) -> V:
        """The value of this key; made, and kept if its ``size`` in bytes has room."""
        if key in self._values:
            return self._values[key]
        value = make()
        taken = size(value)
        if taken <= self._room:
            self._room -= taken
            self._values[key] = value
        return value
