"""Two conversations that begin alike as one row: what they share once, and then both endings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.chat_tokens import Marked


def longest_fork(max_length: int, max_answer: int | None) -> int:
    """How many tokens a row with two endings has at most, of answers cut to these numbers."""
    # One token at least is shared: the first, which nothing tells.
    both = 2 * max_length - 1
    return both if max_answer is None else min(both, max_length + max_answer)


def trimmed(one: Marked) -> Marked:
    """A conversation without what comes after its last learned token: nothing depends on that."""
    end = int(np.flatnonzero(one.learned)[-1]) + 1
    return Marked(tokens=one.tokens[:end], learned=one.learned[:end])


def fork(first: Marked, second: Marked, *, most: int) -> Marked:
    """Two conversations, which differ, in one row of ``most`` tokens at most; their endings alone learned.

    What they share has the same likelihood in both. Longer endings, which only conversations of several
    turns have, are cut, the longer one first.
    """
    least = min(len(first.tokens), len(second.tokens))
    differ = np.flatnonzero(first.tokens[:least] != second.tokens[:least])
    shared = int(differ[0]) if len(differ) else least
    lengths = _cut(len(first.tokens) - shared, len(second.tokens) - shared, room=most - shared)
    parts = [first.tokens[:shared]]
    learned, branches = [np.zeros(shared, bool)], [np.zeros(shared, np.int8)]
    for number, (one, length) in enumerate(zip((first, second), lengths, strict=True), start=1):
        parts.append(one.tokens[shared : shared + length])
        learned.append(one.learned[shared : shared + length])
        branches.append(np.full(length, number, np.int8))
    return Marked(
        tokens=np.concatenate(parts), learned=np.concatenate(learned), branches=np.concatenate(branches)
    )


def made_up_forks(sizes: NDArray[np.int64], *, max_length: int, max_answer: int | None) -> dict[str, Any]:
    """``branches`` and ``learned`` of made-up rows of these sizes, whose endings are as long, or nearly."""
    branches, learned = [], []
    for size in map(int, sizes):
        shared = max(1, min(size // 2, 2 * max_length - size))
        first = (size - shared + 1) // 2
        second = size - shared - first
        branches.append(np.repeat(np.array([0, 1, 2], np.int8), [shared, first, second]))
        within = np.concatenate([np.full(shared, size), np.arange(first), np.arange(second)])
        learned.append(within < min(size, size if max_answer is None else max_answer))
    return {"branches": np.concatenate(branches), "learned": np.concatenate(learned)}


def _cut(first: int, second: int, *, room: int) -> tuple[int, int]:
    """What is left of two lengths that should not be more than ``room`` together."""
    kept = min(first, max(room - second, room - room // 2))
    return kept, min(second, room - kept)
