"""Masks: streams of words that hide a vector, and that cancel out or are taken off again.

A mask is the AES-256 key stream in counter mode (NIST SP 800-38A, section 6.5) under a key that is used for
this mask alone, read as words of the ring. The counter starts at two: so do AES-GCM's with an
initialization vector of zeros (NIST SP 800-38D, section 7.1), whose ciphertext of zeros is the same stream.
Where processors have AES for whole vectors, libraries use it for GCM alone, which then is nearly twice as
fast in spite of the authentication that nobody reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from privacy.errors import AggregationError
from privacy.secagg.ring import Ring, Words

KEY_BYTES = 32
BLOCK = 1 << 17  # bytes: the vector's part, the mask's and the zeros stay in the processor's own cache
_CTR = CTR((2).to_bytes(16, "big"))
_GCM = GCM(bytes(12))
_LONGEST = (1 << 36) - 32  # bytes: GCM's counter has 32 bits

# From a key to its stream. A key makes no second stream: the counter starts where it always does.
Stream = Callable[[bytes], CipherContext]


def by_counter(key: bytes) -> CipherContext:
    """The stream by AES in counter mode."""
    return Cipher(AES(key), _CTR).encryptor()


def by_gcm(key: bytes) -> CipherContext:
    """The same bytes by AES-GCM, up to 2^36 - 32 of them."""
    return Cipher(AES(key), _GCM).encryptor()


def apply_masks(
    words: Words,
    *,
    ring: Ring,
    add: Sequence[bytes] = (),
    subtract: Sequence[bytes] = (),
    stream: Stream | None = None,
) -> Words:
    """The words, plus a mask for each key in ``add``, minus one for each in ``subtract``, reduced.

    A new array; the keys are of 32 bytes. ``stream`` is the faster of the two here unless one is given.
    Raises AggregationError for other keys, for words of another ring, and for more than 64 GiB of them.
    """
    if words.dtype != ring.dtype or words.ndim != 1 or words.nbytes > _LONGEST:
        raise AggregationError(
            f"expected a vector of {ring.dtype}, got {words.dtype} of shape {words.shape}", rule="vector"
        )
    for key in (*add, *subtract):
        if len(key) != KEY_BYTES:
            raise AggregationError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}", rule="vector")
    begin = stream or fastest_stream()
    added, subtracted = [begin(key) for key in add], [begin(key) for key in subtract]
    masked = words.copy()
    step = BLOCK // ring.dtype.itemsize
    zeros, filled = bytes(BLOCK), bytearray(BLOCK)
    for start in range(0, len(masked), step):
        part = masked[start : start + step]
        mask = np.frombuffer(filled, ring.dtype, count=len(part))
        plain = memoryview(zeros)[: part.nbytes]
        for cipher in added:
            cipher.update_into(plain, filled)
            np.add(part, mask, out=part)
        for cipher in subtracted:
            cipher.update_into(plain, filled)
            np.subtract(part, mask, out=part)
    return ring.reduced(masked)


@cache
def fastest_stream() -> Stream:
    """The one of the two that takes less of this processor's time: found once, in a few milliseconds."""
    return min((by_counter, by_gcm), key=_seconds)


def _seconds(stream: Stream) -> float:
    """The least processor time of three for 16 blocks."""
    zeros, filled, taken = bytes(BLOCK), bytearray(BLOCK), []
    for _ in range(3):
        cipher = stream(bytes(KEY_BYTES))
        start = time.thread_time()
        for _ in range(16):
            cipher.update_into(zeros, filled)
        taken.append(time.thread_time() - start)
    return min(taken)
