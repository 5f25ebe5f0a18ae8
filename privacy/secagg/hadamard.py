"""A random rotation that any seed gives: no coordinate of what it turns stands out."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.errors import ProtocolError

SEED_BYTES = 32
_LABEL = b"confide rotation 1"


def block_size(dimension: int) -> int:
    """The largest power of two that is at most ``dimension``: how many coordinates are mixed at a time."""
    return 1 << (dimension.bit_length() - 1) if dimension > 0 else 0


def rotate(vector: NDArray[np.floating], seed: bytes) -> NDArray[np.float64]:
    """Turn float[d] by what the public ``seed``, 32 bytes, says: float64[d] of the same L2 norm.

    Random signs and a Walsh-Hadamard transform over the first 2^k coordinates, then fresh signs and the
    same over the last 2^k, where 2^k is the largest power of two up to d: any length, without padding.
    Over the seeds, a coordinate of what comes back has a mean of 0 and a variance of at most C²/2^k, where
    C is the vector's L2 norm, and is subgaussian: beyond t · C/√2^k lies at most 2 · exp(-t²/2). For each
    is a sum of independent signs over √2^k, weighted by numbers of a norm of at most C. That holds for a
    vector that does not depend on the seed: whoever knows it finds one that is turned into a spike.

    All of it is sums and differences in a fixed order, so that every machine computes the same bits. For
    d < 2^30 they are off by at most 2^-47 of the vector's norm: 2^-53 for each of two times 29 steps, and
    for a root and a division. Raises ProtocolError for another seed or shape.

    Source: Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), section 4, where one transform turns a padded
    vector.
    """
    turned, block = _copy(vector), block_size(len(vector))
    first, last = _signs(seed, block)
    if block:
        turned[:block] = _transformed(first * turned[:block])
        turned[-block:] = _transformed(last * turned[-block:])
    return turned


def rotate_back(vector: NDArray[np.floating], seed: bytes) -> NDArray[np.float64]:
    """Undo ``rotate`` with the same seed: float[d] to float64[d]. Raises what it raises."""
    turned, block = _copy(vector), block_size(len(vector))
    first, last = _signs(seed, block)
    if block:
        turned[-block:] = last * _transformed(turned[-block:])
        turned[:block] = first * _transformed(turned[:block])
    return turned


def _copy(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    if vector.ndim != 1:
        raise ProtocolError(f"expected one vector to rotate, got shape={vector.shape}")
    return vector.astype(np.float64)


def _signs(seed: bytes, block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two float64[block] of ±1, each sign a bit of a ChaCha20 stream under the hashed seed."""
    if len(seed) != SEED_BYTES:
        raise ProtocolError(f"expected a rotation's seed of {SEED_BYTES} bytes, got {len(seed)}")
    key = hashlib.sha256(_LABEL + seed).digest()
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes((2 * block + 7) // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=2 * block, bitorder="little")
    signs = 1.0 - 2.0 * bits.astype(np.float64)
    return signs[:block], signs[block:]


def _transformed(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal Walsh-Hadamard transform of float64[2^k], which is its own inverse.

    One step over and over: sums of neighbours to the front, differences to the back. Each turns the bits
    of an index by one place, so that after k of them all are where they were. Butterflies in place take
    three times as long, because numpy is slow at short strides.

    Source: Pease 1968, "An adaptation of the fast Fourier transform for parallel processing".
    """
    half = len(vector) // 2
    given, made, spare = vector, np.empty_like(vector), np.empty_like(vector)
    for _ in range(len(vector).bit_length() - 1):
        np.add(given[0::2], given[1::2], out=made[:half])
        np.subtract(given[0::2], given[1::2], out=made[half:])
        given, made, spare = made, spare, made
    return given / math.sqrt(len(vector))
