"""The mean of the sites' updates, with public weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError

_BLOCK = 1 << 14  # numbers that are added at once: what a block needs stays in the processor's cache


class RunningMean:
    """The plain mean of updates that come one after another, without keeping them: float32[size].

    Every site weighs the same: weights by example count would tell the counts. The sum is exact, and is
    rounded once, when it is read: so the mean does not depend on who answered first, to the last bit. It
    takes 8 bytes a number, however many updates there are, and more only where two of them, or their sum,
    are apart by a factor of 2^29.

    A partial sum is a float64 and, in another, what that has rounded away, which Knuth's TwoSum finds (The
    Art of Computer Programming, volume 2, section 4.2.2, theorem B). Where that is rounded too, it goes on.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts = [np.zeros(size)]  # float64[size] each: the sum is theirs, exactly
        self._count = 0

    def add(self, update: NDArray[np.float32]) -> None:
        """Add a finite update, float32[size]. Raises ProtocolError for another size."""
        if update.shape != (self._size,):
            raise ProtocolError(f"expected updates of {self._size} numbers, got shape {update.shape}")
        self._count += 1
        for start in range(0, self._size, _BLOCK):
            block = slice(start, start + _BLOCK)
            more: NDArray[Any] = update[block]
            for part in self._parts:
                part[block], lost = _two_sum(part[block], more)
                if lost is None:
                    break
                more = lost
            else:
                self._parts.append(np.zeros(self._size))
                self._parts[-1][block] = more

    def mean(self) -> NDArray[np.float32]:
        """The mean of what was added: float32[size]. Raises ProtocolError if nothing was."""
        if not self._count:
            raise ProtocolError("expected updates from at least one site, got none")
        found = np.empty(self._size, np.float32)
        for start in range(0, self._size, _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = _rounded([part[block] for part in self._parts]) / self._count
        return found


def _two_sum(
    a: NDArray[np.float64], b: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The rounded sum of two arrays, and what was rounded away; None, as nearly always, for nothing."""
    total = a + b
    added = total - a
    if (added == b).all() and (total - added == a).all():
        return total, None
    return total, (a - (total - added)) + (b - added)


def _rounded(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The exact sum of the parts, rounded once."""
    total: NDArray[np.float64] = parts[0] + parts[1] if len(parts) > 1 else parts[0]
    many = np.flatnonzero(np.any(parts[2:], axis=0)) if len(parts) > 2 else ()
    for place in many:
        total[place] = math.fsum(part[place] for part in parts)
    return total
