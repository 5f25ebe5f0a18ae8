"""Masks: streams of words that hide a vector, and that cancel out or are taken off again.

A mask is the AES-256 key stream in counter mode (NIST SP 800-38A, section 6.5) under a key that is used for
this mask alone, read as words of the ring. AES has instructions of its own on the processors that sites
have, where it is half as fast again as ChaCha20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from privacy.errors import AggregationError
from privacy.secagg.ring import Ring, Words

KEY_BYTES = 32
_BLOCK = 1 << 17  # bytes: the vector's part, the mask's and the zeros stay in the processor's own cache


def apply_masks(
    words: Words, *, ring: Ring, add: Sequence[bytes] = (), subtract: Sequence[bytes] = ()
) -> Words:
    """The words, plus a mask for each key in ``add``, minus one for each in ``subtract``, reduced.

    A new array; the keys are of 32 bytes. Raises AggregationError for others, or for words of another ring.
    """
    if words.dtype != ring.dtype or words.ndim != 1:
        raise AggregationError(
            f"expected a vector of {ring.dtype}, got {words.dtype} of shape {words.shape}", rule="vector"
        )
    added, subtracted = [_stream(key) for key in add], [_stream(key) for key in subtract]
    masked = words.copy()
    step = _BLOCK // ring.dtype.itemsize
    zeros, stream = bytes(_BLOCK), bytearray(_BLOCK)
    for start in range(0, len(masked), step):
        part = masked[start : start + step]
        size = part.nbytes
        mask = np.frombuffer(stream, ring.dtype, count=len(part))
        plain = memoryview(zeros)[:size]
        for cipher in added:
            cipher.update_into(plain, stream)
            np.add(part, mask, out=part)
        for cipher in subtracted:
            cipher.update_into(plain, stream)
            np.subtract(part, mask, out=part)
    return ring.reduced(masked)


def _stream(key: bytes) -> CipherContext:
    if len(key) != KEY_BYTES:
        raise AggregationError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}", rule="vector")
    # The counter starts at zero: no key makes a second stream.
    return Cipher(AES(key), CTR(bytes(16))).encryptor()
