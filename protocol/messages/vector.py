"""Vectors as bytes: little-endian float32."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError


def to_bytes(vector: NDArray[np.float32]) -> bytes:
    """float32[d] as 4·d bytes."""
    return vector.astype("<f4", copy=False).tobytes()


def vector_digest(sent: bytes) -> str:
    """SHA-256, as hex, of a vector as it is sent."""
    return hashlib.sha256(sent).hexdigest()


def from_bytes(data: bytes, *, size: int) -> NDArray[np.float32]:
    """4·size bytes as float32[size], finite. Raises ProtocolError on any other length or content."""
    if len(data) != 4 * size:
        raise ProtocolError(f"expected a vector of {4 * size} bytes, got {len(data)}")
    vector = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(vector).all():
        raise ProtocolError("a vector holds NaN or infinity: lower training.learning_rate")
    return vector
