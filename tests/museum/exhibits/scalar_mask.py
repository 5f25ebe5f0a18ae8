"""One number as the mask of a whole update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from privacy.secagg.masks.masking import KEY_BYTES, apply_masks, by_counter
from privacy.secagg.ring import Ring, Words
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import coins, many_runs

_RUNS, _SIZE = 300, 50
_RING = Ring(32)
Mask = Callable[[Words, bytes], Words]


def with_one_number(words: Words, key: bytes) -> Words:
    """Adds the same word everywhere."""
    return _RING.reduced(words + np.frombuffer(key[:4], _RING.dtype))


def with_a_stream(words: Words, key: bytes) -> Words:
    return apply_masks(words, ring=_RING, add=[key], stream=by_counter)


def shown_of(mask: Mask) -> float:
    """ε that the coordinator shows of two updates that it knows, one of which a site sends under a mask.

    It looks at differences of neighbouring words. A mask that hides has ε = 0.
    """
    generator, present = np.random.default_rng(13), coins(_RUNS)
    out, in_ = (_RING.words(generator.integers(-1000, 1000, _SIZE)) for _ in range(2))
    called = np.zeros(_RUNS, bool)
    for run in range(_RUNS):
        masked = mask(in_ if present[run] else out, generator.bytes(KEY_BYTES))
        called[run] = np.array_equal(_RING.reduced(np.diff(masked)), _RING.reduced(np.diff(in_)))
    return many_runs(called, present, delta=0.0)


def show(_place: Path) -> Shown:
    shown = shown_of(with_one_number)
    return Shown(
        flagged=shown > 0.0, control=shown_of(with_a_stream) > 0.0, figures={"shown": f"{shown:.1f}"}
    )


EXHIBIT = Exhibit(
    title="One number as a mask",
    threads=(
        Thread(
            name="openfl#1346",
            url="https://github.com/securefederatedai/openfederatedlearning/pull/1346",
            note="with the code of `calculate_shared_mask`",
        ),
    ),
    shipped=(
        "OpenFL's first secure aggregation derived one float from each agreed key and added their sum "
        "to every weight of every tensor. Masks cancel out in the mean, as they should. The difference "
        "of any two weights stands there in the clear."
    ),
    seen="an exact mean, and updates that are all off by something.",
    says=(
        "many runs: a coordinator that has to tell which of two updates a site sent is always right, ε "
        "≥ {shown}, where a mask has 0."
    ),
    here=(
        "a mask is a stream of words, one a number, and a key makes one stream alone "
        "([`masking.py`](../privacy/secagg/masks/masking.py)); published vectors hold its bytes "
        "([`test_vectors.py`](../tests/privacy/secagg/masks/test_vectors.py))."
    ),
    found_by="many runs",
    show=show,
)
