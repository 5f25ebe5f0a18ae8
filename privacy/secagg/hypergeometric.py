"""How many of a random few are marked: counts of ways, in integers, so that everybody finds the same.

Of ``size`` sites ``marked`` are marked and ``draws`` are drawn, all sets as likely: a count of ways over
``math.comb(size, draws)`` is a probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterator


def ways(size: int, *, marked: int, draws: int, least: int) -> int:
    """In how many of all ways ``draws`` of ``size`` sites hold ``least`` or more of the marked ones."""
    return sum(found for count, found in ways_from_most(size, marked=marked, draws=draws) if count >= least)


def ways_from_most(size: int, *, marked: int, draws: int) -> Iterator[tuple[int, int]]:
    """How many marked ones may be drawn, from the most down, and in how many ways each: hypergeometric."""
    most, least = min(marked, draws), max(0, draws - (size - marked))
    found = math.comb(marked, most) * math.comb(size - marked, draws - most)
    for count in range(most, least - 1, -1):
        yield count, found
        # The next term, by the ratio of two neighbouring ones.
        found = found * count * (size - marked - draws + count)
        found //= (marked - count + 1) * (draws - count + 1)
