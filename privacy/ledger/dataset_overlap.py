"""The members of data sets: which examples they hold, and which they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

# Bytes of an example's keyed digest: two of a billion examples agree by chance with probability 2^-69.
DIGEST_BYTES = 16


def fingerprint(digests: bytes) -> str:
    """What names a data set: SHA-256, as hex, of its sorted keyed digests end to end."""
    return hashlib.sha256(digests).hexdigest()


def combinations(
    members: Mapping[int, bytes], dataset: int, *, among: Mapping[int, object]
) -> frozenset[frozenset[int]]:
    """For the examples of one data set, the distinct sets of data sets that hold them.

    The data set alone is always among them: an example that is in no other costs nothing to assume.
    """
    own = _digests(members[dataset])
    shared: dict[bytes, set[int]] = {}
    for other in among:
        if other != dataset:
            for digest in own & _digests(members[other]):
                shared.setdefault(digest, {dataset}).add(other)
    return frozenset({frozenset({dataset}), *map(frozenset, shared.values())})


def _digests(joined: bytes) -> set[bytes]:
    return {joined[i : i + DIGEST_BYTES] for i in range(0, len(joined), DIGEST_BYTES)}
