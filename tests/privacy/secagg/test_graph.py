"""Sparse graphs: what they promise, how seldom it fails, and sums over them."""

import hashlib
import math
import os
from collections import deque

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import AggregationError
from privacy.identity import Identity
from privacy.secagg import graph as graphs
from privacy.secagg.graph import (
    COMPLETE_UP_TO,
    Circle,
    Graph,
    find_circle,
    join_around,
    make_graph,
    shuffle,
)
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.masks.site_steps import begin, confirm, deal, reveal
from privacy.secagg.ring import Ring
from privacy.secagg.roster import Roster, Rules
from tests.privacy.exchanges import contribute

SEEDS = st.binary(min_size=32, max_size=32)


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def is_complete(graph: Graph) -> bool:
    size = len(graph.neighbours)
    return all(set(others) == set(range(size)) - {place} for place, others in enumerate(graph.neighbours))


def parts(graph: Graph, places: set[int]) -> list[set[int]]:
    """The connected parts of a graph on some of its places."""
    left, found = set(places), []
    while left:
        part, queue = set(), deque([min(left)])
        while queue:
            place = queue.popleft()
            if place in left:
                left.remove(place)
                part.add(place)
                queue.extend(set(graph.neighbours[place]) & left)
        found.append(part)
    return found


# What is refused


@pytest.mark.parametrize(("threshold", "colluding"), [(0, 0), (151, 0), (140, -1), (140, 150)])
def test_refuses_more_than_there_are_sites(threshold: int, colluding: int) -> None:
    with pytest.raises(AggregationError, match="expected a threshold from 1 to size=150"):
        make_graph(150, threshold=threshold, colluding=colluding, seed=bytes(32))


def test_no_circle_where_drops_and_colluders_leave_no_room() -> None:
    # With a third dropping and a third colluding, the means alone leave no holder to spare: of k neighbours
    # 2k/3 are left, and more than k/2 + k/6 are needed, for the third of a side that colludes.
    for size in (150, 1000, 5000):
        third = size // 3
        asked = {"dropping": third, "colluding": third, "privacy_bits": 1, "sum_bits": 1}
        assert find_circle(size, **asked) is None
        assert is_complete(make_graph(150, threshold=100, colluding=50, seed=bytes(32)))


def test_no_circle_that_spares_less_than_a_quarter() -> None:
    # With 2/3 as a threshold 150 sites would need a degree of 130: who drops out leaves too few holders.
    assert is_complete(make_graph(150, threshold=101, colluding=0, seed=bytes(32)))


# The graph


@settings(max_examples=30)
@given(size=st.integers(2, COMPLETE_UP_TO), seed=SEEDS, data=st.data())
def test_complete_up_to_a_hundred(size: int, seed: bytes, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, size))
    graph = make_graph(size, threshold=threshold, colluding=0, seed=seed)
    assert is_complete(graph)
    assert graph.threshold == threshold


@settings(max_examples=30, deadline=None)
@given(size=st.integers(COMPLETE_UP_TO + 1, 400), share=st.floats(0.8, 1.0), seed=SEEDS)
def test_regular_symmetric_and_connected(size: int, share: float, seed: bytes) -> None:
    graph = make_graph(size, threshold=math.ceil(share * size), colluding=0, seed=seed)
    (degree,) = {len(others) for others in graph.neighbours}
    assert degree <= 3 * (size - 1) / 4
    for place, others in enumerate(graph.neighbours):
        assert list(others) == sorted(set(others) - {place})
        assert all(place in graph.neighbours[other] for other in others)
        assert graph.holders(place) == tuple(sorted({place, *others}))
    assert parts(graph, set(range(size))) == [set(range(size))]
    assert degree / 2 + 1 < graph.threshold <= degree


def test_the_same_graph_on_every_machine() -> None:
    assert shuffle(10, seed=bytes(32)) == [0, 1, 5, 9, 7, 8, 6, 3, 4, 2]
    graph = make_graph(150, threshold=135, colluding=0, seed=bytes(range(32)))
    assert (len(graph.neighbours[0]), graph.threshold) == (62, 48)
    found = hashlib.sha256(repr(graph.neighbours).encode()).hexdigest()
    assert found == "85ea5c2771db838c2778636699066197fdfee18be9507f4ca77a57f713c3ceb1"


def test_another_seed_is_another_graph() -> None:
    found = {make_graph(150, threshold=135, colluding=0, seed=seed_of(k)).neighbours for k in range(20)}
    assert len(found) == 20


def orders_are_even(draw) -> bool:
    """Whether 4,800 orders of four places have each of 24 about 200 times."""
    counts: dict[tuple[int, ...], int] = {}
    for number in range(4800):
        order = tuple(draw(number))
        counts[order] = counts.get(order, 0) + 1
    square = sum((count - 200) ** 2 / 200 for count in counts.values()) + 200 * (24 - len(counts))
    # Pearson's statistic has 23 degrees of freedom: an even one is above this once in a million.
    return square < stats.chi2.isf(1e-6, 23)


def test_every_order_is_as_likely() -> None:
    assert orders_are_even(lambda number: shuffle(4, seed=seed_of(number)))


def test_control_a_shuffle_that_swaps_with_any_place_is_caught() -> None:
    # It reaches 4^4 outcomes, which 24 orders cannot share evenly: 256/24 is no integer.
    def naive(number: int) -> list[int]:
        order, content = [0, 1, 2, 3], seed_of(number)
        for place in range(4):
            other = content[place] % 4
            order[place], order[other] = order[other], order[place]
        return order

    assert not orders_are_even(naive)


# How seldom it fails


@pytest.mark.parametrize("size", [101, 150, 300, 1000, 2000])
@pytest.mark.parametrize("dropping", [0.0, 0.1, 0.25])
def test_the_tails_are_the_hypergeometric_ones(size: int, dropping: float) -> None:
    dropped, colluding = int(dropping * size), size // 10
    circle = find_circle(size, dropping=dropped, colluding=colluding, privacy_bits=104, sum_bits=20)
    assert circle is not None
    half, others = circle.degree // 2, size - 1
    sides = 2 * (size - colluding)

    def crowded(threshold: int) -> float:
        least = threshold - half - 1
        found = stats.hypergeom.logsf(least - 1, others, colluding, half)
        return (math.log(sides) + found) / math.log(2)

    # scipy's logarithms and sums of them are right to far less than a millionth of a bit.
    assert crowded(circle.threshold) <= -104 + 1e-6
    assert crowded(circle.threshold - 1) > -104 - 1e-6
    gone = stats.hypergeom.sf(circle.degree - circle.threshold, others, max(dropped - 1, 0), circle.degree)
    alive = stats.hypergeom.sf(circle.degree - circle.threshold + 1, others, dropped, circle.degree)
    assert dropped * gone + (size - dropped) * alive <= 2.0**-20 * (1 + 1e-6)


@pytest.mark.parametrize("size", [110, 200, 500])
@pytest.mark.parametrize("dropping", [0.1, 0.05])
def test_hardly_a_lesser_degree_would_do(size: int, dropping: float) -> None:
    dropped, colluding = int(dropping * size), size // 10
    circle = find_circle(size, dropping=dropped, colluding=colluding, privacy_bits=104, sum_bits=20)
    assert circle is not None
    for half in range(1, circle.degree // 2 - 3):
        less = graphs._private_circle(size, half=half, colluding=colluding, bits=104)
        assert not (less and graphs._is_summable(size, less, dropping=dropped, bits=20))


def crowds(order: list[int], circle: Circle, colluding: set[int]) -> int:
    """How many sides of honest sites have as many colluding ones as privacy must not see."""
    size, half = len(order), circle.degree // 2
    marked = np.array([place in colluding for place in order], int)
    runs = np.concatenate([[0], np.cumsum(np.concatenate([marked, marked, marked]))])
    at = np.arange(size, 2 * size)
    after, before = runs[at + 1 + half] - runs[at + 1], runs[at] - runs[at - half]
    least = circle.threshold - half - 1
    return int(((after >= least) & (marked == 0)).sum() + ((before >= least) & (marked == 0)).sum())


def missing(graph: Graph, dropped: set[int]) -> int:
    """How many sites' secrets too few holders are left of."""
    return sum(
        len(set(graph.holders(place)) - dropped) < graph.threshold for place in range(len(graph.neighbours))
    )


@pytest.mark.statistics
def test_failures_are_as_rare_as_said_and_not_much_rarer() -> None:
    size, marked, bits, trials = 120, 24, 5, 1000
    circle = find_circle(size, dropping=marked, colluding=marked, privacy_bits=bits, sum_bits=bits)
    assert circle is not None
    half, others = circle.degree // 2, size - 1
    # Two holders less or more than were found, and it must fail more often than was asked for.
    fewer = Circle(degree=circle.degree, threshold=circle.threshold - 2)
    more = Circle(degree=circle.degree, threshold=circle.threshold + 2)
    # Only the order is random: that the first sites are those who drop out or collude says nothing.
    orders = [shuffle(size, seed=seed_of(number)) for number in range(trials)]
    first = set(range(marked))

    def crowded(circle: Circle) -> np.ndarray:
        return np.array([crowds(order, circle, first) for order in orders])

    def missed(circle: Circle) -> np.ndarray:
        return np.array([missing(join_around(order, circle), first) for order in orders])

    for counts, worse in ((crowded(circle), crowded(fewer)), (missed(circle), missed(more))):
        # A frequency of p has a deviation of √(p / trials) = 0.0056 at p = 2^-5: five of these at most.
        assert (counts > 0).mean() <= 2.0**-bits + 5 * math.sqrt(2.0**-bits / trials)
        assert (worse > 0).mean() > 2.0**-bits
    # What the union bound adds up is how many fail on average, which is found within five deviations.
    side = stats.hypergeom.sf(fewer.threshold - half - 2, others, marked, half)
    gone = stats.hypergeom.sf(more.degree - more.threshold, others, marked - 1, more.degree)
    alive = stats.hypergeom.sf(more.degree - more.threshold + 1, others, marked, more.degree)
    expected = 2 * (size - marked) * side, marked * gone + (size - marked) * alive
    for counts, mean in zip((crowded(fewer), missed(more)), expected, strict=True):
        assert abs(counts.mean() - mean) < 5 * counts.std() / math.sqrt(trials)


# Whoever is said to have dropped out


def readable(graph: Graph, *, survivors: set[int], colluding: set[int]) -> list[set[int]]:
    """The honest survivors' sums that a coordinator can read, given its colluding sites' shares.

    Honest survivors alone reveal seeds. A part of them is readable if all its seeds are had, as no pair
    mask leads out of it.
    """
    honest = survivors - colluding

    def has_seed(place: int) -> bool:
        return len(set(graph.holders(place)) & (honest | colluding)) >= graph.threshold

    return [part for part in parts(graph, honest) if all(map(has_seed, part))]


def on_circle(order: list[int], degree: int, colluding: set[int]) -> Circle:
    """The least threshold that these colluding sites leave private on this circle."""
    half, honest = degree // 2, [at for at, place in enumerate(order) if place not in colluding]
    size = len(order)
    most = max(
        sum(order[(at + sign * step) % size] in colluding for step in range(1, half + 1))
        for at in honest
        for sign in (1, -1)
    )
    return Circle(degree=degree, threshold=half + 2 + most)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    size=st.integers(20, 50),
    half=st.integers(2, 7),
    colluding=st.sets(st.integers(0, 19), max_size=4),
    seed=SEEDS,
)
def test_no_choice_of_drops_splits_the_sum(data, size, half, colluding, seed) -> None:
    order = shuffle(size, seed=seed)
    circle = on_circle(order, 2 * half, colluding)
    assume(circle.threshold <= circle.degree)
    # Gaps as wide as a side are what separates; anything else may drop out too.
    gaps = [data.draw(st.integers(0, size - 1)) for _ in range(2)]
    dropped = {order[(gap + step) % size] for gap in gaps for step in range(half)}
    dropped |= data.draw(st.sets(st.integers(0, size - 1), max_size=3))
    survivors = set(range(size)) - dropped
    graph = join_around(order, circle)
    assert readable(graph, survivors=survivors, colluding=colluding) in ([], [survivors - colluding])


def test_no_site_has_both_secrets_revealed() -> None:
    order = shuffle(60, seed=bytes(32))
    colluding = {1, 2, 3, 4, 5, 6}
    graph = join_around(order, on_circle(order, 20, colluding))
    for place in set(range(60)) - colluding:
        holders = set(graph.holders(place))
        # Honest holders give one share each, to whichever list they were told of; the others give both.
        assert 2 * graph.threshold > len(holders - colluding) + 2 * len(holders & colluding)


@pytest.mark.parametrize("colluders", [0, 1])
def test_control_a_threshold_of_one_less_lets_drops_split_the_sum(colluders: int) -> None:
    order, half = list(range(40)), 5
    # The stretch from 5 to 14 survives, and from 20 on; a colluding site beside its end helps to reveal.
    dropped = {*range(5), *range(15, 20)}
    colluding = {0, 19} if colluders else set()
    survivors = set(range(40)) - dropped
    circle = on_circle(order, 2 * half, colluding)
    assert readable(join_around(order, circle), survivors=survivors, colluding=colluding) == []
    less = Circle(degree=2 * half, threshold=circle.threshold - 1)
    split = readable(join_around(order, less), survivors=survivors, colluding=colluding)
    assert set(range(5, 15)) in split


# Whole exchanges


@pytest.mark.exhaustive
@pytest.mark.parametrize(("size", "threshold"), [(150, 135)])
def test_sums_over_a_sparse_graph_are_exact(size: int, threshold: int) -> None:
    generator, ring, dimension = np.random.default_rng(7), Ring(20), 33
    identities = {f"site-{k:03d}": Identity.generate() for k in range(size)}
    peers = {site: identity.public for site, identity in identities.items()}
    rules = Rules(manifest=bytes(32), cohort=size, threshold=threshold, min_survivors=threshold)
    begun = {
        site: begin(site, bytes(32), identity=who, random=os.urandom) for site, who in identities.items()
    }
    roster = Roster(rules=rules, number=1, members=tuple(member for _, member in begun.values()))
    assert len(roster.graph.neighbours[0]) == 62
    # Of the fifteen that may drop out, each third does at another step.
    order = [sorted(identities)[place] for place in generator.permutation(size)]
    dealers, contributors, revealers = (sorted(order[k:]) for k in (5, 10, 15))
    dealt = {site: deal(begun[site][0], roster, peers=peers, random=os.urandom) for site in dealers}
    cohorts = forward(roster, {site: dealing for site, (_, dealing) in dealt.items()})
    words = {site: ring.words(generator.integers(-1000, 1000, dimension)) for site in contributors}
    given_ = {
        site: contribute(dealt[site][0], cohorts[site], words[site], number=1, ring=ring)
        for site in contributors
    }
    signed = {
        site: confirm(given_[site][0], contributors, number=1, identity=identities[site])
        for site in contributors
        if site in roster.signers
    }
    after = {site: given_[site][0] for site in contributors} | {
        site: one[0] for site, one in signed.items()
    }
    signatures = {site: signature for site, (_, signature) in signed.items()}
    shares = {
        site: reveal(after[site], contributors, number=1, signatures=signatures)[1] for site in revealers
    }
    total = add_up([masked for _, masked in given_.values()], ring=ring, size=dimension)
    arguments = {"ring": ring, "roster": roster, "survivors": contributors}
    found = unmask(total, **arguments, cohort=cohorts[dealers[0]], shares=shares)
    assert (found == add_up(words.values(), ring=ring, size=dimension)).all()
    # One holder fewer than a secret asks for, and it cannot be had.
    places = roster.graph.holders(roster.place(contributors[0]))
    kept = [site for site in revealers if roster.place(site) in places][: roster.graph.threshold - 1]
    others = {site: shares[site] for site in revealers if roster.place(site) not in places or site in kept}
    with pytest.raises(AggregationError, match="expected 48 shares"):
        unmask(total, **arguments, cohort=cohorts[dealers[0]], shares=others)


def test_a_graph_that_would_take_gigabytes_is_refused() -> None:
    """Ten thousand sites of which half collude have to mask all with all."""
    with pytest.raises(AggregationError, match=r"cohort: expected 2500 sites at most .*, got 10000"):
        make_graph(10_000, threshold=7600, colluding=5000, seed=bytes(32))


@pytest.mark.exhaustive
def test_ten_thousand_sites_have_a_graph() -> None:
    assert len(make_graph(10_000, threshold=6667, colluding=0, seed=bytes(32)).neighbours) == 10_000
