"""Integers modulo a power of two: the words that masks are added to, and the bytes that travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError

# uint16, uint32 or uint64, as the ring's ``dtype`` says.
Words: TypeAlias = NDArray[np.unsignedinteger[Any]]

_DTYPES: dict[int, str] = {16: "<u2", 20: "<u4", 32: "<u4", 64: "<u8"}


@dataclass(frozen=True)
class Ring:
    """Integers modulo ``2^bits``. Raises ProtocolError for a modulus that is not in use."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in _DTYPES:
            raise ProtocolError(f"expected a modulus of 16, 20, 32 or 64 bits, got bits={self.bits}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a word is kept in; its bits above ``bits`` are zero once ``reduced``."""
        return np.dtype(_DTYPES[self.bits])

    def reduced(self, words: Words) -> Words:
        """The same integers below ``2^bits``; sums in ``dtype`` wrap around by themselves before that."""
        if 8 * self.dtype.itemsize == self.bits:
            return words
        kept: Words = words & self.dtype.type((1 << self.bits) - 1)
        return kept

    def words(self, integers: NDArray[np.int64]) -> Words:
        """int64[d] modulo ``2^bits``."""
        return self.reduced(integers.astype(np.uint64).astype(self.dtype))

    def centred(self, words: Words) -> NDArray[np.int64]:
        """The integers in ``[-2^(bits - 1), 2^(bits - 1))`` that are these modulo ``2^bits``: int64[d]."""
        # Shifted to the top of a signed word and back, the highest bit becomes the sign.
        spare = 64 - self.bits
        return (words.astype(np.uint64) << np.uint64(spare)).view(np.int64) >> np.int64(spare)

    def packed_size(self, size: int) -> int:
        """How many bytes ``size`` words travel in."""
        return (size * self.bits + 7) // 8

    def pack(self, words: Words) -> bytes:
        """Reduced words as ``packed_size`` bytes, little-endian, without gaps."""
        if self.bits != 20:
            return words.tobytes()
        pairs = np.zeros((len(words) + 1) // 2 * 2, np.uint64)
        pairs[: len(words)] = words
        joined = pairs[0::2] | (pairs[1::2] << np.uint64(20))
        return joined.view(np.uint8).reshape(-1, 8)[:, :5].tobytes()[: self.packed_size(len(words))]

    def unpack(self, data: bytes, *, size: int) -> Words:
        """``size`` words from what ``pack`` made. Raises ProtocolError for another length."""
        if len(data) != self.packed_size(size):
            raise ProtocolError(
                f"expected {size} words of {self.bits} bits in {self.packed_size(size)} bytes, got "
                f"{len(data)}"
            )
        if self.bits != 20:
            return np.frombuffer(data, self.dtype)
        padded = np.zeros((size + 1) // 2 * 5, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        joined = np.zeros((len(padded) // 5, 8), np.uint8)
        joined[:, :5] = padded.reshape(-1, 5)
        pairs = joined.view("<u8").ravel()
        words = np.stack([pairs & np.uint64(0xFFFFF), pairs >> np.uint64(20)], axis=1)
        return words.ravel()[:size].astype(self.dtype)
