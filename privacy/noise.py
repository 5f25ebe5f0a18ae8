"""Where random bits come from: a ChaCha20 key stream, keyed afresh or by name."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

_KEY_BYTES = 32


class NoiseSource(Protocol):
    """What a mechanism draws from. The choice of source is made at the edge, once."""

    def gaussian(self, size: int, *, std: float) -> NDArray[np.float64]:
        """Draw float64[size] from N(0, std²)."""
        ...

    def laplace(self, size: int, *, scale: float) -> NDArray[np.float64]:
        """Draw float64[size] from Laplace(0, scale)."""
        ...

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        """Draw the indices of a Poisson sample: each of ``population`` with probability ``rate``."""
        ...

    def seed(self) -> int:
        """Draw a 63-bit seed for randomness that privacy does not rest on, such as dropout."""
        ...


class ChaCha20Source:
    """Noise from a ChaCha20 key stream (RFC 8439) under a 256-bit key.

    Normals come from 52-bit uniforms by Box-Muller in float64, so no value beyond 8.6 standard
    deviations is drawn: the mass cut off, below 1e-17, is far under any δ in use.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes, got {len(key)}")
        # The 16 bytes are a zero counter and a zero nonce: the key is used for one stream only.
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def _uniform(self, size: int) -> NDArray[np.float64]:
        """float64[size], uniform on the 2^52 midpoints of (0, 1), each of them exact."""
        words = np.frombuffer(self._stream.update(bytes(8 * size)), dtype="<u8")
        return (words >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53

    def gaussian(self, size: int, *, std: float) -> NDArray[np.float64]:
        pairs = (size + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self._uniform(pairs)))
        angle = (2.0 * math.pi) * self._uniform(pairs)
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]
        return std * normal

    def laplace(self, size: int, *, scale: float) -> NDArray[np.float64]:
        centred = self._uniform(size) - 0.5
        return -scale * np.sign(centred) * np.log1p(-2.0 * np.abs(centred))

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        return np.flatnonzero(self._uniform(population) < rate)

    def seed(self) -> int:
        return int.from_bytes(self._stream.update(bytes(8)), "little") >> 1


def fresh_source() -> ChaCha20Source:
    """A source keyed by the operating system's entropy. This is what privacy rests on."""
    return ChaCha20Source(os.urandom(_KEY_BYTES))


def keyed_source(seed: int, *path: str | int) -> ChaCha20Source:
    """A source that gives the same noise for the same seed and path, on every machine.

    Whoever knows the seed can subtract the noise: a run that uses this protects nobody. It exists
    so that a simulation can be repeated bit for bit.
    """
    name = "\x1f".join(["confide noise", str(seed), *map(str, path)])
    return ChaCha20Source(hashlib.sha256(name.encode()).digest())
