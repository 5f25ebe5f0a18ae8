"""Texts that are nearly the same: found if four fifths of what they say is, and not if half is."""

from __future__ import annotations

import numpy as np

from tasks.data.near_duplicates import near_duplicates


def text(words: np.ndarray) -> str:
    return " ".join(f"w{word}" for word in words)


def test_those_that_share_most_are_found_and_others_are_not() -> None:
    random = np.random.default_rng(5)
    own = random.integers(1 << 30, size=(200, 60))
    nearly, half = own[:100].copy(), own[100:].copy()
    nearly[:, -4:] += 1  # 54 of 62 shingles are shared
    half[:, -20:] += 1  # 38 of 78
    texts = [text(words) for words in (*own, *nearly, *half)]
    assert near_duplicates(texts) == tuple(range(200, 300))


def test_equal_texts_are_repeated_and_not_nearly_the_same() -> None:
    assert (
        near_duplicates(["one two three four", "One  two three four", None, "", "other words here"]) == ()
    )


def test_short_texts_are_a_shingle() -> None:
    assert near_duplicates(["no", "yes", "no way", "no way at", "yes"]) == ()
