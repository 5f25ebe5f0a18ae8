"""Texts that are nearly the same, by MinHash (Broder 1997, On the resemblance of documents)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORDS = 3  # in a shingle
ALIKE = 0.8  # the share of all shingles that two texts have in common
# Two texts of that likeness share a band with a probability of 1 - (1 - 0.8^5)^20 > 0.9996.
_BANDS, _ROWS = 20, 5


def near_duplicates(texts: Sequence[str | None]) -> tuple[int, ...]:
    """The texts, by their places, of which four fifths of all shingles are an earlier one's, too.

    A shingle is three words in a row, whatever their case. Equal texts are none: they are repeated.
    """
    shingles = [_shingles(text) if text is not None else frozenset[int]() for text in texts]
    multipliers = _multipliers()
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    found = []
    for place, own in enumerate(shingles):
        if not own:
            continue
        keys = list(enumerate(row.tobytes() for row in _sketch(own, multipliers).reshape(_BANDS, _ROWS)))
        near = {other for key in keys for other in buckets[key]}
        if any(own != shingles[other] and _likeness(own, shingles[other]) >= ALIKE for other in near):
            found.append(place)
        for key in keys:
            buckets[key].append(place)
    return tuple(found)


def _shingles(text: str) -> frozenset[int]:
    words = text.casefold().split()
    parts = [words[first : first + _WORDS] for first in range(max(1, len(words) - _WORDS + 1))]
    return frozenset(_hash(" ".join(part)) for part in parts if part)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest())


def _multipliers() -> NDArray[np.uint64]:
    """Odd numbers, the same for all, which turn one hash into many: uint64[bands * rows]."""
    drawn = np.random.default_rng(1).integers(1 << 63, size=_BANDS * _ROWS, dtype=np.uint64)
    return drawn | np.uint64(1)


def _sketch(shingles: frozenset[int], multipliers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The least of each hash over a text's shingles, uint64[bands * rows]."""
    hashes = np.fromiter(shingles, np.uint64, len(shingles))
    mixed = hashes[:, None] * multipliers  # modulo 2^64
    least: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(32))).min(axis=0)
    return least


def _likeness(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)
