"""Shamir's secret sharing: any ``threshold`` shares give the secret, and fewer say nothing about it.

The field is that of integers modulo 2^255 − 19. A secret is below that prime, so that secrets and shares
alike take 32 bytes, little-endian. A share's point is an integer from 1 that its holder is known by.

Source: Shamir 1979, "How to share a secret".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privacy.errors import AggregationError

PRIME = 2**255 - 19
SHARE_BYTES = 32

# So many random bytes: os.urandom, or a test's.
Random = Callable[[int], bytes]


def draw_secret(random: Random) -> bytes:
    """A secret that can be shared, uniform: 32 bytes."""
    return _draw(random).to_bytes(SHARE_BYTES, "little")


def split(secret: bytes, *, threshold: int, points: Sequence[int], random: Random) -> list[bytes]:
    """The share for each point, 32 bytes. Raises AggregationError for what cannot be shared so."""
    constant = _element(secret)
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise AggregationError(
            f"expected threshold={threshold} or more distinct points from 1 on, got points={list(points)}",
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
    not distinct integers from 1.
    """

    def __init__(self, points: Sequence[int]) -> None:
        if not points or len(set(points)) != len(points) or min(points) < 1:
            raise AggregationError(f"expected distinct points from 1 on, got {list(points)}", rule="share")
        self._weights = [_weight_at_zero(point, points) for point in points]

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


def _weight_at_zero(point: int, points: Sequence[int]) -> int:
    """Lagrange's polynomial that is 1 at ``point`` and 0 at the others, at 0."""
    numerator = denominator = 1
    for other in points:
        if other != point:
            numerator = numerator * other % PRIME
            denominator = denominator * (other - point) % PRIME
    return numerator * pow(denominator, -1, PRIME) % PRIME


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
