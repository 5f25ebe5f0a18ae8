"""Masks from a seed of 32 bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from privacy.secagg.masks.masking import KEY_BYTES, apply_masks, by_counter
from privacy.secagg.ring import Ring
from tests.museum.exhibit import Exhibit, Shown, Thread

_MASKS = 2**18
_RING = Ring(64)
_NOTHING = np.zeros(1, _RING.dtype)


def folded(key: bytes) -> bytes:
    """A key whose eight words are folded into one: 2^32 keys are left."""
    word = np.bitwise_xor.reduce(np.frombuffer(key, "<u4"))
    return hashlib.sha256(word.tobytes()).digest()


def repeated(keys: list[bytes], derive: Callable[[bytes], bytes]) -> tuple[bytes, bytes] | None:
    """Two keys with the same mask, if there are any among these: a birthday search."""
    seen: dict[bytes, bytes] = {}
    for key in keys:
        first = seen.setdefault(derive(key), key)
        if first is not key:
            return first, key
    return None


def masks(pair: tuple[bytes, bytes], derive: Callable[[bytes], bytes]) -> list[list[int]]:
    return [
        apply_masks(_NOTHING, ring=_RING, add=[derive(key)], stream=by_counter).tolist() for key in pair
    ]


def show(_place: Path) -> Shown:
    random = np.random.default_rng(11).bytes(KEY_BYTES * _MASKS)
    keys = [random[start : start + KEY_BYTES] for start in range(0, len(random), KEY_BYTES)]
    found = repeated(keys, folded)
    bits = math.log2(math.comb(_MASKS, 2) / 0.05)
    first, second = masks(found, folded) if found else ([0], [1])
    return Shown(
        flagged=first == second,
        control=repeated(keys, bytes) is not None,
        figures={"masks": f"{_MASKS:,}", "bits": f"{bits:.0f}"},
    )


EXHIBIT = Exhibit(
    title="Masks from 32 bits",
    threads=(
        Thread(name="flower#7522", url="https://github.com/flwrlabs/flower/issues/7522"),
        Thread(name="fedbiomed#973", url="https://github.com/fedbiomed/fedbiomed/issues/973"),
    ),
    shipped=(
        "Flower's SecAgg+ folds each shared key into 32 bits and seeds a Mersenne Twister with it: "
        "whoever sees a masked update can try all masks that there are. Another platform draws central "
        "noise from the framework's own generator."
    ),
    seen="a key exchange on a curve of 256 bits, and vectors that look random.",
    says=(
        "no audit of ours measures keys. An attack of its own does: among {masks} masks two are equal. "
        "With k masks there are k(k − 1)/2 pairs, so that by Markov's inequality there are, with a "
        "confidence of 95 %, fewer than 2^{bits} keys."
    ),
    here=(
        "a mask is AES-256's stream under a key of 32 bytes, anything shorter is refused "
        "([`masking.py`](../privacy/secagg/masks/masking.py)), and noise is ChaCha20's under 32 bytes "
        "of the operating system's ([`rng.py`](../privacy/mechanisms/rng.py))."
    ),
    found_by=None,
    show=show,
)
