"""The draw: which sites take part in which round, computed alike by whoever has the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The cohorts of a run: ``size`` of the ``sites`` in each of ``rounds`` rounds, by a public ``seed``.

    Each pass over the sites is a fresh shuffle, by SHA-256 of the seed, the pass and the name, and rounds
    take their cohorts from it in turn. So after any number of rounds no site was drawn more than once more
    often than another, and none more than ⌈rounds · size / sites⌉ times. Where a pass ends within a round,
    the next one begins with sites that the round does not have yet.

    Nothing is secret in it, and no privacy is claimed from it. A site that is not in a round releases
    nothing there, so what a run costs is the composition of the rounds that a site is in, which it knows
    before it plans. ``sites`` has at least ``size`` names, each once.
    """

    sites: tuple[str, ...]
    size: int
    rounds: int
    seed: int

    def cohort(self, number: int) -> frozenset[str]:
        """The sites of a round, counted from 1; of the last one for all that comes after it."""
        return self._cohorts[min(number, self.rounds) - 1]

    def rounds_of(self, site: str) -> int:
        """How many rounds a site is drawn in."""
        return self._counts[site]

    def rounds_until(self, site: str, number: int) -> int:
        """How many rounds a site is drawn in up to a round, that one among them."""
        return sum(site in cohort for cohort in self._cohorts[:number])

    @cached_property
    def _cohorts(self) -> tuple[frozenset[str], ...]:
        return tuple(_cohorts(self))

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(site for cohort in self._cohorts for site in cohort)


def cohort_size(cohort: float | None, *, sites: int) -> int:
    """How many of so many sites a round has: a number, a share, or all of them."""
    if cohort is None:
        return sites
    return min(cohort, sites) if isinstance(cohort, int) else max(1, round(cohort * sites))


def _cohorts(draw: Draw) -> Iterator[frozenset[str]]:
    waiting: list[str] = []  # of this pass, the last one first
    passes = 0
    for _ in range(draw.rounds):
        cohort = [waiting.pop() for _ in range(min(draw.size, len(waiting)))]
        if len(cohort) < draw.size:
            passes += 1
            order, begun = _shuffled(draw, passes), set(cohort)
            first = [site for site in order if site not in begun][: draw.size - len(cohort)]
            begun = set(first)
            waiting = [site for site in reversed(order) if site not in begun]
            cohort += first
        yield frozenset(cohort)


def _shuffled(draw: Draw, number: int) -> list[str]:
    key = b"confide cohort\0" + draw.seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    return sorted(draw.sites, key=lambda site: hashlib.sha256(key + site.encode()).digest())
