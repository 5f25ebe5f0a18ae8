"""Sparsification: only some coordinates of an update travel, the same at all sites or the largest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from protocol.messages.vector import from_bytes, to_bytes

_LABEL = b"confide support 1"
_LONG = 255  # in the bytes of gaps: so many coordinates are passed over, and the gap goes on


def kept_count(size: int, share: float) -> int:
    """How many of ``size`` coordinates travel: a ``share`` of them, rounded, but one at least."""
    return min(size, max(1, round(share * size)))


def support_seed(manifest_digest: bytes, round_number: int) -> bytes:
    """The public seed of a round's support, 32 bytes: SHA-256 of a label, the digest and the round."""
    return hashlib.sha256(_LABEL + manifest_digest + round_number.to_bytes(8, "big")).digest()


@dataclass(frozen=True, kw_only=True)
class Support:
    """The coordinates that all sites send in a round: ``kept`` of ``size``, sorted and distinct.

    Made by ``draw_support``. It is public and depends on nobody's data, so that masked vectors of the kept
    coordinates can be added up. Values are sent as they are and not times ``1 / share``: what a site does
    not send waits in its residual (error feedback) and is sent later. So one round's mean is biased towards
    zero outside the support, and the sum over rounds is not.
    """

    size: int
    kept: NDArray[np.int64]

    def take(self, update: NDArray[np.float32]) -> NDArray[np.float32]:
        """The kept coordinates of float32[size]: float32[kept]. Raises ProtocolError for another shape."""
        _check_shape(update, self.size)
        return update[self.kept]

    def spread(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Values of the kept coordinates at their places among zeros: float32[size].

        Raises ProtocolError for another number of values.
        """
        _check_shape(values, len(self.kept))
        update = np.zeros(self.size, np.float32)
        update[self.kept] = values
        return update


def draw_support(seed: bytes, *, size: int, share: float) -> Support:
    """Draw ``kept_count`` of ``size`` coordinates by a public 32-byte seed, the same on every platform.

    Each coordinate is given a word of a ChaCha20 key stream (RFC 8439), and the lowest words are kept:
    every set is as likely as the others, but that of two equal words the first one's is the lower. That
    moves a coordinate's chance by less than 2^-32. Raises ProtocolError for a seed of another length.
    """
    if len(seed) != 32:
        raise ProtocolError(f"expected a seed of 32 bytes, got {len(seed)}")
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(4 * size)), "<u4")
    return Support(size=size, kept=_lowest(words, kept_count(size, share)))


def encode_top(update: NDArray[np.float32], *, share: float) -> bytes:
    """The largest coordinates of float32[d], by absolute value, and their places.

    ``kept_count`` values as float32, then a byte or more for each: how many coordinates lie between it and
    the one before, in bytes of 255 and one below. That is at most ``5 · kept + d / 255`` bytes, and one
    encoding for each content. Of equal values the first is kept; NaN counts as larger than all, so that the
    other end sees it.

    Each site keeps places of its own, and these tell of its update: masked vectors of them cannot be
    added up, and only an update that is private itself may be sent so.
    """
    _check_shape(update, update.size)
    # Without its sign bit, a float32 read as an integer grows with its absolute value.
    magnitude = update.astype("<f4", copy=False).view("<u4") & np.uint32(0x7FFFFFFF)
    kept = _lowest(~magnitude, kept_count(update.size, share))
    gaps = np.diff(kept, prepend=-1) - 1
    ends = np.cumsum(gaps // _LONG + 1) - 1
    places = np.full(ends[-1] + 1 if len(ends) else 0, _LONG, np.uint8)
    places[ends] = gaps % _LONG
    return to_bytes(update[kept]) + places.tobytes()


def longest_top(size: int, *, share: float) -> int:
    """How many bytes ``encode_top`` makes of ``size`` coordinates at most."""
    return 5 * kept_count(size, share) + size // _LONG


def decode_top(data: bytes, *, size: int, share: float) -> NDArray[np.float32]:
    """What ``encode_top`` sent, at its places among zeros: float32[size].

    Raises ProtocolError for any bytes that ``encode_top`` could not have made of a finite update: another
    number of coordinates, places beyond the end, NaN or infinity.
    """
    count = kept_count(size, share)
    least, most = 5 * count, longest_top(size, share=share)
    if not least <= len(data) <= most:
        raise ProtocolError(
            f"expected {count} coordinates of {size} in {least} to {most} bytes, got {len(data)} bytes"
        )
    values = from_bytes(data[: 4 * count], size=count)
    places = np.frombuffer(data, np.uint8, offset=4 * count)
    ends = np.flatnonzero(places != _LONG)
    if len(ends) != count or (count and ends[-1] != len(places) - 1):
        raise ProtocolError(f"expected the places of {count} coordinates, got those of {len(ends)}")
    # Gaps are never negative, so places are sorted and distinct by themselves.
    kept = np.cumsum(places, dtype=np.int64)[ends] + np.arange(count)
    if count and kept[-1] >= size:
        raise ProtocolError(f"expected places below {size}, got {kept[-1]}")
    update = np.zeros(size, np.float32)
    update[kept] = values
    return update


def _lowest(ranks: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    """The places of the ``count`` lowest ranks, sorted; of equal ranks the first is the lower."""
    # With its place below it, no key comes twice: which are the lowest does not depend on an algorithm.
    keys = (ranks.astype(np.uint64) << np.uint64(32)) | np.arange(len(ranks), dtype=np.uint64)
    if 0 < count < len(keys):
        keys = np.partition(keys, count - 1)[:count]
    return np.sort((keys[:count] & np.uint64(0xFFFFFFFF)).astype(np.int64))


def _check_shape(vector: NDArray[np.floating[Any]], size: int) -> None:
    if vector.shape != (size,):
        raise ProtocolError(f"expected a vector of {size} numbers, got shape {vector.shape}")
