"""Shamir's secret sharing: any ``threshold`` shares give the secret, and fewer say nothing about it.

The field is that of integers modulo 2^255 − 19. A secret is below that prime, so that secrets and shares
alike take 32 bytes, little-endian. A share's point is an integer from 1 that its holder is known by.

Source: Shamir 1979, "How to share a secret".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from privacy.errors import AggregationError

PRIME = 2**255 - 19
SHARE_BYTES = 32
_POINT_BITS = 20
_POINT_END = 1 << _POINT_BITS

# So many random bytes: os.urandom, or a test's.
Random = Callable[[int], bytes]


def draw_secret(random: Random) -> bytes:
    """A secret that can be shared, uniform: 32 bytes."""
    return _draw(random).to_bytes(SHARE_BYTES, "little")


def split(secret: bytes, *, threshold: int, points: Sequence[int], random: Random) -> list[bytes]:
    """The share for each point, 32 bytes. Raises AggregationError for what cannot be shared so."""
    constant = _element(secret)
    if not 1 <= threshold <= len(points) or not _are_points(points):
        raise AggregationError(
            f"expected threshold={threshold} or more distinct points from 1 to {_POINT_END - 1}, got "
            f"points={list(points)}",
            rule="share",
        )
    # From the highest power down, as Horner's scheme takes them.
    polynomial = [_draw(random) for _ in range(threshold - 1)] + [constant]
    shares = []
    for point in points:
        value = 0
        # Points are small: to reduce once in the end costs less than each time.
        for coefficient in polynomial:
            value = value * point + coefficient
        shares.append((value % PRIME).to_bytes(SHARE_BYTES, "little"))
    return shares


class Combiner:
    """Gets secrets back from the shares at ``points``, which must be as many as the threshold was.

    The work that depends on the points alone is done once. Raises AggregationError for points that are
    not distinct integers from 1 to 2^20 - 1.
    """

    def __init__(self, points: Sequence[int]) -> None:
        if not _are_points(points):
            raise AggregationError(
                f"expected distinct points from 1 to {_POINT_END - 1}, got {list(points)}", rule="share"
            )
        self._weights = _weights_at_zero(points)

    def combine(self, shares: Sequence[bytes]) -> bytes:
        """The secret, from one share a point in their order: 32 bytes.

        A wrong share gives a wrong secret and no error: whoever has a public image of the secret compares.
        """
        if len(shares) != len(self._weights):
            raise AggregationError(
                f"expected {len(self._weights)} shares, one a point, got {len(shares)}", rule="share"
            )
        total = sum(weight * _element(share) for weight, share in zip(self._weights, shares, strict=True))
        return (total % PRIME).to_bytes(SHARE_BYTES, "little")


def is_share(content: bytes) -> bool:
    """Whether these are 32 bytes of an integer below the prime."""
    return len(content) == SHARE_BYTES and int.from_bytes(content, "little") < PRIME


def _are_points(points: Sequence[int]) -> bool:
    return len(set(points)) == len(points) > 0 and 1 <= min(points) <= max(points) < _POINT_END


def _weights_at_zero(points: Sequence[int]) -> list[int]:
    """Each point's Lagrange polynomial, which is 1 there and 0 at the other points, at 0.

    It is P / (x · D) with P the product of all points, and D that of the differences from x to the others.
    All are inverted at the price of one (Montgomery 1987, "Speeding the Pollard and elliptic curve methods
    of factorization", section 10.3.1).
    """
    denominators = [math.prod(row) % PRIME for row in _products(points)]
    before = [1]
    for denominator in denominators:
        before.append(before[-1] * denominator % PRIME)
    # Of all up to one, to begin with of all: times P, which each weight has.
    inverse = pow(before[-1], -1, PRIME) * (math.prod(points) % PRIME) % PRIME
    weights = []
    for place in range(len(points) - 1, -1, -1):
        weights.append(inverse * before[place] % PRIME)
        inverse = inverse * denominators[place] % PRIME
    return weights[::-1]


def _products(points: Sequence[int]) -> list[list[int]]:
    """Of each point x, integers whose product is x times the differences from x to the others.

    Points are small: as many factors as fit are multiplied in a machine's word.
    """
    x = np.array(points, np.int64)
    factors = x[None, :] - x[:, None]
    np.fill_diagonal(factors, x)
    together = 62 // _POINT_BITS
    padded = np.ones((len(x), -(-len(x) // together) * together), np.int64)
    padded[:, : len(x)] = factors
    products: list[list[int]] = padded.reshape(len(x), -1, together).prod(axis=2).tolist()
    return products


def _element(content: bytes) -> int:
    if not is_share(content):
        raise AggregationError(
            f"expected {SHARE_BYTES} bytes of an integer below 2^255 − 19, got {len(content)} bytes",
            rule="share",
        )
    return int.from_bytes(content, "little")


def _draw(random: Random) -> int:
    while True:
        value = int.from_bytes(random(SHARE_BYTES), "little") & ((1 << 255) - 1)
        if value < PRIME:
            return value
