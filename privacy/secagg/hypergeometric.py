"""How many of a random few are marked: counts of ways, in integers, so that everybody finds the same.

Of ``size`` sites ``marked`` are marked and ``draws`` are drawn, all sets as likely: a count of ways over
``math.comb(size, draws)`` is a probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

Found = TypeVar("Found")


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


def least_rare(size: int, *, marked: int, draws: int, bits: int, times: int = 1) -> int:
    """The least count of marked ones that is reached with a probability of ``2^-bits / times`` at most."""
    drawn = math.comb(size, draws)
    least, reached = min(marked, draws) + 1, 0
    for count, found in ways_from_most(size, marked=marked, draws=draws):
        reached += found
        if times * reached << bits > drawn:
            break
        least = count
    return least


def least_fitting(fitting: Callable[[int], Found | None], *, most: int) -> tuple[int, Found] | None:
    """The least number from 1 to ``most`` that fits, with what was found for it; None if ``most`` does not.

    Nearly always a larger number fits where a smaller one does. Where rounding makes it otherwise, this
    finds one that fits all the same, and is not the least by a few.
    """
    found = fitting(most) if most else None
    if found is None:
        return None
    low, best = 0, (most, found)
    while best[0] - low > 1:
        middle = (low + best[0]) // 2
        found = fitting(middle)
        if found is None:
            low = middle
        else:
            best = middle, found
    return best
