"""A coordinator that keeps to the protocol and looks at everything, with sites that work with it.

It learns the sum of the honest survivors and nothing else while fewer sites than the threshold collude;
with as many as the threshold it reads single updates. Each statistic is shown to reject what is broken.
"""

from __future__ import annotations

from copy import copy
from itertools import combinations

import numpy as np
import pytest

from privacy.secagg.masks import site_steps as secagg
from privacy.secagg.masks.coordinator_steps import add_up, forward
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.ring import Ring, Words
from privacy.secagg.sealing import derive
from tests.privacy.exchanges import (
    Adversary,
    Sites,
    contributed,
    looks_uniform,
    make_rules,
    names,
    usual_threshold,
)

RINGS = [Ring(bits) for bits in (16, 20, 32, 64)]
SIZE = 6000
ME = names(1)[0]


def plain(kind: str, ring: Ring, size: int = SIZE) -> Words:
    """What a coordinator could know of an update: nothing in it, or everything."""
    if kind == "zeros":
        return np.zeros(size, ring.dtype)
    return ring.words(np.arange(size, dtype=np.int64) // 7 % 50 - 25)


KINDS = pytest.mark.parametrize("kind", ["zeros", "steps"])
ALL_RINGS = pytest.mark.parametrize("ring", RINGS, ids=lambda ring: str(ring.bits))


# What a coordinator sees of one site.


@KINDS
@ALL_RINGS
def test_one_masked_vector_is_uniform(kind: str, ring: Ring) -> None:
    words = plain(kind, ring)
    assert not looks_uniform(words, ring=ring)
    _, _, _, masked = contributed(make_rules(3), ring=ring, vectors=dict.fromkeys(names(3), words))
    for vector in masked.values():
        assert looks_uniform(vector, ring=ring)


def exchanges(*, count: int, size: int, ring: Ring) -> np.ndarray:
    """One site's masked vectors of the same words, over the exchanges of a run: [count, size]."""
    sites, words = Sites(make_rules(3)), dict.fromkeys(names(3), plain("steps", ring, size))
    found = []
    for number in range(1, count + 1):
        roster = sites.roster(number)
        cohorts = forward(roster, sites.deal(roster))
        found.append(sites.contribute(cohorts, words, ring=ring, number=number)[ME])
    return np.array(found, ring.dtype)


def test_nothing_is_left_from_one_exchange_to_the_next() -> None:
    """Over 160 exchanges: each coordinate's words, and what changes from one exchange to the next."""
    ring = Ring(32)
    seen = exchanges(count=160, size=40, ring=ring)
    assert looks_uniform(seen.T.ravel(), ring=ring)
    assert looks_uniform((seen[1::2] - seen[::2]).ravel(), ring=ring)


def test_masks_that_come_again_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: one seed for a run, as if an exchange were not part of what keys are derived from."""
    monkeypatch.setattr(secagg, "self_mask_key", lambda _seed, _cohort, site: derive(b"run", site.encode()))
    monkeypatch.setattr(
        secagg, "pair_mask_key", lambda _pair, _cohort, *, own, other: derive(b"run", other.site.encode())
    )
    ring = Ring(32)
    seen = exchanges(count=2, size=SIZE, ring=ring)
    assert looks_uniform(seen[0], ring=ring)
    assert looks_uniform(seen[1], ring=ring)
    assert not looks_uniform(seen[1] - seen[0], ring=ring)


# What is left when all masks are taken off that are known.


class Closed:
    """An exchange after all have revealed; ``late`` has masked, and its vector came after the list."""

    def __init__(self, count: int, *, colluding: int, threshold: int, late: bool, kind: str) -> None:
        self.ring = Ring(16)
        self.colluders = names(count)[:colluding]
        self.honest = names(count)[colluding:]
        self.survivors = names(count)[: count - 1] if late else names(count)
        self.vectors = {
            site: np.roll(plain(kind, self.ring), place) for place, site in enumerate(names(count))
        }
        rules = make_rules(count, threshold=threshold)
        sites, roster, self.cohorts, self.masked = contributed(rules, ring=self.ring, vectors=self.vectors)
        self.adversary = Adversary(roster, self.colluders)
        self.adversary.learn_sites(sites)
        self.before = copy(sites)
        revealed = sites.reveal(self.survivors, sites.confirm(self.survivors))
        self.adversary.learn_revealed(self.survivors, revealed)

    def peel(self, site: str) -> tuple[Words, int]:
        return self.adversary.peel(site, self.masked[site], self.cohorts[site], ring=self.ring)

    @property
    def honest_survivors(self) -> list[str]:
        return [site for site in self.honest if site in self.survivors]


def curious() -> list[tuple[int, int, int, bool]]:
    """Sites, threshold, colluders up to one less than the threshold, whether one comes late."""
    return [
        (count, threshold, colluding, late)
        for count in (4, 5, 7)
        for threshold in sorted({count // 2 + 1, usual_threshold(count)})
        for colluding in range(threshold)
        for late in (False, True)
        # One honest site alone in a sum is read from the sum itself: Rules refuses such sums.
        if count - colluding - late >= 2
    ]


@KINDS
@pytest.mark.parametrize(("count", "threshold", "colluding", "late"), curious())
def test_fewer_colluders_than_the_threshold_learn_the_sum_alone(
    count: int, threshold: int, colluding: int, late: bool, kind: str
) -> None:
    closed = Closed(count, colluding=colluding, threshold=threshold, late=late, kind=kind)
    residues = {site: closed.peel(site) for site in closed.honest}
    for residue, unknown in residues.values():
        assert unknown >= 1
        assert looks_uniform(residue, ring=closed.ring)
    together = closed.honest_survivors
    found = add_up((residues[site][0] for site in together), ring=closed.ring, size=SIZE)
    expected = add_up((closed.vectors[site] for site in together), ring=closed.ring, size=SIZE)
    np.testing.assert_array_equal(found, expected)
    # No sum of fewer of them is free of masks.
    for size in range(2, len(together)):
        for some in combinations(together, size):
            part = add_up((residues[site][0] for site in some), ring=closed.ring, size=SIZE)
            assert looks_uniform(part, ring=closed.ring)


@pytest.mark.parametrize(("count", "threshold"), [(4, 3), (5, 3), (7, 5)])
def test_as_many_colluders_as_the_threshold_read_single_updates(count: int, threshold: int) -> None:
    """Control: the bound is tight, and the adversary above is one."""
    closed = Closed(count, colluding=threshold, threshold=threshold, late=True, kind="steps")
    for site in closed.honest:
        residue, unknown = closed.peel(site)
        assert unknown == 0
        np.testing.assert_array_equal(residue, closed.vectors[site])


@pytest.mark.parametrize("late", [names(5)[4]])
def test_without_self_masks_a_late_vector_is_read(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what the second mask is for. Without colluders, and nobody lies."""

    def without_the_first(words: Words, *, ring: Ring, add: list[bytes], subtract: list[bytes]) -> Words:
        return apply_masks(words, ring=ring, add=add[1:], subtract=subtract)

    monkeypatch.setattr(secagg, "apply_masks", without_the_first)
    closed = Closed(5, colluding=0, threshold=4, late=True, kind="steps")
    residue, unknown = closed.peel(late)
    assert unknown == 1
    assert not looks_uniform(residue, ring=closed.ring)
    np.testing.assert_array_equal(residue, closed.vectors[late])


def test_without_pair_masks_a_survivor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what the others are for."""
    monkeypatch.setattr(
        secagg,
        "apply_masks",
        lambda words, *, ring, add, subtract: apply_masks(words, ring=ring, add=add[:1]),
    )
    closed = Closed(4, colluding=0, threshold=3, late=False, kind="steps")
    seed = closed.adversary.seed(ME)
    own = secagg.self_mask_key(seed, closed.cohorts[ME].digest(closed.adversary.roster), ME)
    residue = apply_masks(closed.masked[ME], ring=closed.ring, subtract=[own])
    assert not looks_uniform(residue, ring=closed.ring)


# What is not promised.


def test_sites_that_forget_that_they_revealed_lose_their_updates() -> None:
    """A site whose state was set back reveals a second time: nothing here can know."""
    closed = Closed(4, colluding=0, threshold=3, late=False, kind="steps")
    target = names(4)[3]
    again = copy(closed.before)
    others = [site for site in names(4) if site != target]
    closed.adversary.learn_revealed(others, again.reveal(others, again.confirm(others)))
    residue, unknown = closed.peel(target)
    assert unknown == 0
    np.testing.assert_array_equal(residue, closed.vectors[target])


def test_the_same_vector_in_two_sums_is_their_difference() -> None:
    """Sums tell what they tell: one site more in the second, and equal inputs of the others."""
    first = Closed(5, colluding=0, threshold=3, late=False, kind="steps")
    second = Closed(5, colluding=0, threshold=3, late=True, kind="steps")
    sums = [
        add_up((closed.vectors[site] for site in closed.survivors), ring=closed.ring, size=SIZE)
        for closed in (first, second)
    ]
    np.testing.assert_array_equal(first.ring.reduced(sums[0] - sums[1]), first.vectors[names(5)[4]])
