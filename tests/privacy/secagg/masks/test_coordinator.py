"""The sum of the survivors, bit for bit, whoever drops out when; and what is done about wrong shares."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from privacy.errors import AggregationError
from privacy.secagg.masks import coordinator_steps as unmasking
from privacy.secagg.masks.coordinator_steps import add_up, check_dealing, forward, unmask
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Roster
from privacy.secagg.shamir import SHARE_BYTES
from tests.privacy.exchanges import (
    Sites,
    contributed,
    draw_vectors,
    make_rules,
    names,
    usual_threshold,
)

BITS = (16, 20, 32, 64)
SIZE = 5


def parts(sites: Sequence[str], *, least: int) -> Iterator[list[str]]:
    """Every choice of ``least`` or more of the sites, in order."""
    for size in range(least, len(sites) + 1):
        for chosen in combinations(sites, size):
            yield list(chosen)


def check_sum(found: Words, vectors: dict[str, Words], survivors: Sequence[str], ring: Ring) -> None:
    """Against Python's integers."""
    columns = zip(*(vectors[site].tolist() for site in survivors), strict=True)
    assert found.tolist() == [sum(column) % (1 << ring.bits) for column in columns]


def every_size() -> Iterator[tuple[int, int]]:
    """Sizes up to seven, with the least threshold, the usual one and all."""
    for count in range(2, 8):
        for threshold in sorted({count // 2 + 1, usual_threshold(count), count}):
            yield count, threshold


@pytest.mark.parametrize(("count", "threshold"), every_size())
@pytest.mark.exhaustive(but=4)
def test_sums_are_exact_whoever_drops_out_when(count: int, threshold: int) -> None:
    """Every choice of who deals, who of these masks, who of these reveals; in each ring in turn."""
    rules = make_rules(count, threshold=threshold)
    start = Sites(rules)
    roster = start.roster()
    dealings = start.deal(roster)
    for turn, dealers in enumerate(parts(names(count), least=rules.min_survivors)):
        ring, sites = Ring(BITS[turn % 4]), copy(start)
        vectors = draw_vectors(dealers, ring=ring, size=SIZE, seed=turn)
        cohorts = forward(roster, {site: dealings[site] for site in dealers})
        masked = sites.contribute(cohorts, vectors, ring=ring)
        for survivors in parts(dealers, least=rules.min_survivors):
            closing = copy(sites)
            signatures = closing.confirm(survivors)
            revealed = closing.reveal(survivors, signatures)
            total = add_up((masked[site] for site in survivors), ring=ring, size=SIZE)
            for holders in parts(survivors, least=threshold - 1):
                shares = {site: revealed[site] for site in holders}
                if len(holders) < threshold:
                    with pytest.raises(AggregationError, match=f"expected {threshold} shares"):
                        take_off(total, roster, cohorts[dealers[0]], survivors, shares, ring)
                    continue
                found = take_off(total, roster, cohorts[dealers[0]], survivors, shares, ring)
                check_sum(found, vectors, survivors, ring)


def take_off(
    total: Words,
    roster: Roster,
    cohort: Cohort,
    survivors: Sequence[str],
    shares: dict[str, dict[str, bytes]],
    ring: Ring,
) -> Words:
    return unmask(total, ring=ring, roster=roster, cohort=cohort, survivors=survivors, shares=shares)


@pytest.mark.parametrize(("count", "threshold"), [(4, 3), (5, 3), (5, 4), (6, 4)])
def test_whoever_survives_reveals_once_enough_have_confirmed(count: int, threshold: int) -> None:
    """Every choice of who drops out after masking and before signing."""
    ring, rules = Ring(32), make_rules(count, threshold=threshold)
    vectors = draw_vectors(names(count), ring=ring, size=SIZE)
    start, roster, cohorts, masked = contributed(rules, ring=ring, vectors=vectors)
    for survivors in parts(names(count), least=rules.min_survivors):
        total = add_up((masked[site] for site in survivors), ring=ring, size=SIZE)
        for signers in parts(survivors, least=1):
            sites = copy(start)
            signatures = sites.confirm(survivors, signers)
            if len(signers) < threshold:
                with pytest.raises(AggregationError, match=f"expected {threshold} survivors' signatures"):
                    sites.reveal(survivors, signatures, signers)
                continue
            # Who signed late, or not at all, knows by the others' signatures whose sum it is.
            shares = sites.reveal(survivors, signatures, reversed(survivors[-threshold:]))
            found = take_off(total, roster, cohorts[signers[0]], survivors, shares, ring)
            check_sum(found, vectors, survivors, ring)


@pytest.mark.parametrize(("count", "bits"), [(13, 16), (20, 20), (31, 32), (50, 64)])
@pytest.mark.exhaustive(but=1)
def test_sums_of_many_are_exact(count: int, bits: int) -> None:
    """Many drop out, at random over the stages; two exchanges of one run, 1,001 words."""
    chance, ring, rules = random.Random(count), Ring(bits), make_rules(count)  # noqa: S311
    sites = Sites(rules, seed=count)
    for number in (1, 2) if count < 50 else (1,):
        left = names(count)

        def drop(at_most: int, left: list[str] = left) -> list[str]:
            for site in chance.sample(left, chance.randint(0, at_most)):
                left.remove(site)
            return list(left)

        roster = sites.roster(number)
        spare = count - rules.min_survivors
        dealers = drop(spare // 3)
        cohorts = forward(roster, sites.deal(roster, dealers))
        survivors = drop(spare // 3)
        vectors = draw_vectors(survivors, ring=ring, size=1001, seed=number)
        masked = sites.contribute(
            {site: cohorts[site] for site in survivors}, vectors, ring=ring, number=number
        )
        signers = drop(len(left) - rules.threshold)
        signatures = sites.confirm(survivors, signers, number=number)
        holders = drop(len(left) - rules.threshold)
        shares = sites.reveal(survivors, signatures, holders, number=number)
        total = add_up(masked.values(), ring=ring, size=1001)
        found = take_off(total, roster, cohorts[holders[0]], survivors, shares, ring)
        check_sum(found, vectors, survivors, ring)


class Closed:
    """Five sites, one of which dropped out after dealing; four have revealed."""

    def __init__(self, *, threshold: int = 3) -> None:
        self.ring = Ring(32)
        self.rules = make_rules(5, threshold=threshold)
        self.vectors = draw_vectors(names(5), ring=self.ring, size=SIZE)
        sites, self.roster, self.cohorts, masked = contributed(
            self.rules, ring=self.ring, vectors=self.vectors
        )
        self.survivors = [*names(5)[:2], *names(5)[3:]]
        self.shares = sites.reveal(self.survivors, sites.confirm(self.survivors))
        self.cohort = self.cohorts[self.survivors[0]]
        self.total = add_up((masked[site] for site in self.survivors), ring=self.ring, size=SIZE)

    def unmask(self) -> Words:
        return take_off(self.total, self.roster, self.cohort, self.survivors, self.shares, self.ring)


LIES = {
    "zeros": lambda _share: bytes(SHARE_BYTES),
    "one more": lambda share: bytes([share[0] ^ 1]) + share[1:],
    "swapped": lambda share: share[::-1][:-1] + b"\0",
    "truncated": lambda share: share[:-1],
    "none": lambda _share: b"",
    "oversized": lambda share: share + b"\0",
    "beyond the prime": lambda _share: b"\xff" * SHARE_BYTES,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("liar", [0, 1, 3, 4])
def test_a_lying_holder_is_done_without(liar: int, lie: Callable[[bytes], bytes]) -> None:
    closed = Closed()
    name = names(5)[liar]
    closed.shares[name] = {site: lie(share) for site, share in closed.shares[name].items()}
    check_sum(closed.unmask(), closed.vectors, closed.survivors, closed.ring)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("of", names(5))
def test_a_lie_is_noticed_where_none_are_left_over(of: str, lie: Callable[[bytes], bytes]) -> None:
    """The site is named whose secret cannot be had; no wrong sum comes out."""
    closed = Closed(threshold=4)
    name = closed.survivors[0]
    closed.shares[name] |= {of: lie(closed.shares[name][of])}
    with pytest.raises(AggregationError, match=of) as refused:
        closed.unmask()
    assert refused.value.rule == "share"


@pytest.mark.parametrize("of", names(5))
def test_too_few_shares_are_named(of: str) -> None:
    closed = Closed()
    for holder in closed.survivors[:2]:
        closed.shares[holder] = {site: s for site, s in closed.shares[holder].items() if site != of}
    with pytest.raises(AggregationError, match=f"expected 3 shares of a secret of {of}, got 2"):
        closed.unmask()


@pytest.mark.parametrize("of", names(5))
def test_a_secret_is_the_one_that_was_published(of: str) -> None:
    """A survivor's seed against its commitment; of who dropped out, the key against the public one."""
    closed = Closed()
    other = closed.cohorts["site-04"].of("site-00" if of != "site-00" else "site-01")
    change = {"commitment": bytes(32)} if of in closed.survivors else {"key": bytes([1]) * 32}
    assert other.key != bytes([1]) * 32
    dealt = tuple(replace(each, **change) if each.site == of else each for each in closed.cohort.dealt)
    closed.cohort = Cohort(dealt=dealt)
    with pytest.raises(AggregationError, match=f"a secret of {of} do not give what it published"):
        closed.unmask()


def test_without_these_checks_a_lie_spoils_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: it is the comparison with what was published that sees it."""
    closed = Closed(threshold=4)
    name = closed.survivors[0]
    closed.shares[name] |= {name: LIES["one more"](closed.shares[name][name])}
    recover = unmasking._Recovery._secret
    monkeypatch.setattr(
        unmasking._Recovery, "_secret", lambda self, site, _fits: recover(self, site, lambda _secret: True)
    )
    with pytest.raises(AssertionError):
        check_sum(closed.unmask(), closed.vectors, closed.survivors, closed.ring)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_dealing_has_something_for_each_neighbour(count: int) -> None:
    roster = Sites(make_rules(5)).roster()
    dealing = Dealing(site="site-02", key=bytes(32), commitment=bytes(32), sealed=(b"",) * count)
    for call in (lambda: check_dealing(roster, dealing), lambda: forward(roster, {"site-02": dealing})):
        with pytest.raises(AggregationError, match=f"4 neighbours of site-02, got {count}") as refused:
            call()
        assert refused.value.rule == "share"


def test_each_site_gets_what_is_sealed_for_it_and_no_more() -> None:
    sites = Sites(make_rules(5))
    roster = sites.roster()
    dealings = sites.deal(roster)
    del dealings["site-03"]
    cohorts = forward(roster, dealings)
    assert list(cohorts) == sorted(dealings)
    assert len({cohort.digest(roster) for cohort in cohorts.values()}) == 1
    for receiver, cohort in cohorts.items():
        assert cohort.sites == sorted(dealings)
        for dealt in cohort.dealt:
            others = [site for site in names(5) if site != dealt.site]
            expected = dict(zip(others, dealings[dealt.site].sealed, strict=True)).get(receiver, b"")
            assert (dealt.sealed, dealt.key) == (expected, dealings[dealt.site].key)


@pytest.mark.parametrize("bits", BITS)
def test_sums_wrap_around(bits: int) -> None:
    ring = Ring(bits)
    top = ring.words(np.full(3, -1, np.int64))
    assert add_up([top] * 5, ring=ring, size=3).tolist() == [(1 << bits) - 5] * 3
    assert add_up([], ring=ring, size=3).tolist() == [0, 0, 0]
