"""Committees: how seldom two lists are signed, how seldom none is, and that exchanges keep to them."""

from __future__ import annotations

import hashlib
import math
from copy import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from privacy.errors import AggregationError, LostError
from privacy.secagg import roster as roster_module
from privacy.secagg.committee import Committee, everyone, find_committee, make_committee
from privacy.secagg.graph import Circle, join_around, shuffle
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Ring
from tests.privacy.exchanges import Sites, draw_vectors, forge_signature, make_rules, names

RING = Ring(32)


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def most_colluding(members: int, quorum: int) -> int:
    """With how many colluding members no two lists come about: 2 · quorum > members + colluding."""
    return 2 * quorum - members - 1


# How seldom it fails


@pytest.mark.parametrize("size", [101, 150, 300, 1000, 2000])
@pytest.mark.parametrize("dropping", [0.0, 0.1, 0.25])
def test_the_tails_are_the_hypergeometric_ones(size: int, dropping: float) -> None:
    dropped, colluding = int(dropping * size), size // 10
    found = find_committee(size, dropping=dropped, colluding=colluding, privacy_bits=104, sum_bits=20)
    assert found is not None
    members, quorum = found

    def two_lists(quorum: int) -> float:
        more = stats.hypergeom.logsf(most_colluding(members, quorum), size, colluding, members)
        return float(more / math.log(2))

    # scipy's logarithms are right to far less than a millionth of a bit.
    assert two_lists(quorum) <= -104 + 1e-6
    assert two_lists(quorum - 1) > -104 - 1e-6
    assert stats.hypergeom.sf(members - quorum, size, dropped, members) <= 2.0**-20 * (1 + 1e-6)


@pytest.mark.parametrize(("size", "dropping"), [(110, 11), (200, 10), (500, 125)])
@pytest.mark.exhaustive(but=1)
def test_hardly_fewer_would_do(size: int, dropping: int) -> None:
    found = find_committee(size, dropping=dropping, colluding=size // 10, privacy_bits=104, sum_bits=20)
    assert found is not None
    for fewer in range(1, found[0] - 4):
        # The least quorum that keeps two lists apart leaves too few that may drop out.
        apart = next(quorum for quorum in range(fewer + 2) if _apart(size, size // 10, fewer, quorum))
        spare = fewer - apart
        assert spare < 0 or stats.hypergeom.sf(spare, size, dropping, fewer) > 2.0**-20


def _apart(size: int, colluding: int, members: int, quorum: int) -> bool:
    most = most_colluding(members, quorum)
    return bool(stats.hypergeom.logsf(most, size, colluding, members) <= -104 * math.log(2))


@pytest.mark.parametrize(
    ("size", "dropping", "colluding"),
    [(300, 100, 100), (300, 150, 0), (120, 60, 60)],
    ids=["a third of each", "half gone", "half of each"],
)
def test_where_no_fewer_would_do_all_sign(size: int, dropping: int, colluding: int) -> None:
    found = make_committee(size, threshold=size - dropping, colluding=colluding, seed=bytes(32))
    assert found == everyone(size, threshold=size - dropping)
    assert found.places == tuple(range(size))


@pytest.mark.statistics
def test_failures_are_as_rare_as_said_and_not_much_rarer() -> None:
    size, marked, bits, trials = 120, 24, 5, 4000
    found = find_committee(size, dropping=marked, colluding=marked, privacy_bits=bits, sum_bits=bits)
    assert found is not None
    members, quorum = found
    drawn = np.array([shuffle(size, seed=seed_of(number))[:members] for number in range(trials)])
    # Only the order is random: that the first sites are those who drop out or collude says nothing.
    among = (drawn < marked).sum(axis=1)
    allowed = 2.0**-bits + 5 * math.sqrt(2.0**-bits / trials)  # five deviations of a frequency
    assert (among > most_colluding(members, quorum)).mean() <= allowed
    assert (among > most_colluding(members, quorum - 1)).mean() > 2.0**-bits
    assert (among > members - quorum).mean() <= allowed


# Who is drawn


def test_the_same_committee_on_every_machine() -> None:
    found = make_committee(150, threshold=135, colluding=0, seed=bytes(range(32)))
    assert (len(found.places), found.quorum) == (40, 28)
    assert list(found.places) == sorted(set(found.places))
    digest = hashlib.sha256(repr(found.places).encode()).hexdigest()
    assert digest == "85b3379b69f2efef5fd78bf7455f48655dfb1ef50177ddfa59aa9722caff971d"


def test_another_seed_is_another_committee_and_each_place_as_likely() -> None:
    counts, trials = np.zeros(150), 3000
    seen = set()
    for number in range(trials):
        places = make_committee(150, threshold=135, colluding=0, seed=seed_of(number)).places
        counts[list(places)] += 1
        seen.add(places)
    assert len(seen) == trials
    # A place is in with probability 40/150. Drawn without replacement, Pearson's statistic over
    # 149/150 · (1 - 40/150) has 149 degrees of freedom: an even draw is above this once in a million.
    expected = trials * 40 / 150
    square = float(((counts - expected) ** 2 / expected).sum()) / (1 - 40 / 150) * 149 / 150
    assert square < stats.chi2.isf(1e-6, 149)


def test_a_committee_says_nothing_of_the_graph() -> None:
    """Both are drawn from one seed: as sets of places they are those of two shuffles."""
    committee = make_committee(150, threshold=135, colluding=0, seed=bytes(32)).places
    assert set(committee) != set(shuffle(150, seed=bytes(32))[:40])


# Exchanges, on a circle of ten of which five may sign


SIZE, MEMBERS = 10, (0, 2, 3, 6, 9)


@pytest.fixture
def few_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every roster of ten has a circle, and this committee; three of it sign."""
    monkeypatch.setattr(
        roster_module,
        "make_graph",
        lambda size, **_: join_around(range(size), Circle(degree=6, threshold=5)),
    )
    monkeypatch.setattr(
        roster_module, "make_committee", lambda *_, **__: Committee(places=MEMBERS, quorum=3)
    )


class Scene:
    """Ten sites that have contributed."""

    def __init__(self) -> None:
        self.sites = Sites(make_rules(SIZE))
        self.roster = self.sites.roster()
        self.cohorts = forward(self.roster, self.sites.deal(self.roster))
        self.vectors = draw_vectors(names(SIZE), ring=RING, size=3)
        self.masked = self.sites.contribute(self.cohorts, self.vectors, ring=RING)
        self.digest = self.cohorts[names(SIZE)[0]].digest(self.roster)
        self.members = [names(SIZE)[place] for place in MEMBERS]
        self.others = [site for site in names(SIZE) if site not in self.members]


@pytest.fixture
def scene(few_sign: None) -> Scene:
    return Scene()


def test_a_sum_that_three_of_five_signed_is_uncovered_with_the_help_of_all(scene: Scene) -> None:
    survivors = names(SIZE)[1:]  # the first, a member, has dropped out
    signatures = scene.sites.confirm(survivors, scene.members[1:4])
    slow = scene.members[4]
    shares = scene.sites.reveal(survivors, signatures, [site for site in survivors if site != slow])
    total = add_up((scene.masked[site] for site in survivors), ring=RING, size=3)
    found = unmask(
        total,
        ring=RING,
        roster=scene.roster,
        cohort=scene.cohorts[survivors[0]],
        survivors=survivors,
        shares=shares,
    )
    expected = add_up((scene.vectors[site] for site in survivors), ring=RING, size=3)
    np.testing.assert_array_equal(found, expected)


def test_who_may_not_sign_does_not(scene: Scene) -> None:
    for site in scene.others:
        with pytest.raises(AggregationError, match="none of those who sign"):
            scene.sites.confirm(names(SIZE), [site])


def test_a_member_that_was_not_waited_for_reveals_and_signs_nothing_after(scene: Scene) -> None:
    signatures = scene.sites.confirm(names(SIZE), scene.members[:3])
    slow = scene.members[4]
    assert scene.sites.reveal(names(SIZE), signatures, [slow])[slow]
    with pytest.raises(LostError, match="no shares are held here"):
        scene.sites.confirm(names(SIZE)[:9], [slow])


def test_who_signed_another_list_reveals_for_none(scene: Scene) -> None:
    signatures = scene.sites.confirm(names(SIZE), scene.members[:3])
    other = scene.members[3]
    scene.sites.confirm(names(SIZE)[:9], [other])
    with pytest.raises(AggregationError, match="other survivors were confirmed here"):
        scene.sites.reveal(names(SIZE), signatures, [other])


@pytest.mark.parametrize("holder", ["member", "other"])
def test_two_signatures_and_others_make_no_quorum(scene: Scene, holder: str) -> None:
    survivors = names(SIZE)
    two = scene.sites.confirm(survivors, scene.members[:2])
    asked = scene.members[0] if holder == "member" else scene.others[0]
    with pytest.raises(AggregationError, match="expected 3 survivors' signatures, got 2"):
        scene.sites.reveal(survivors, two, [asked])
    # Whoever may not sign adds none, though its signature is its own.
    strangers = {site: forge_signature(site, scene.digest, survivors) for site in scene.others}
    with pytest.raises(AggregationError, match="signatures of survivors alone"):
        scene.sites.reveal(survivors, two | strangers, [asked])


@pytest.mark.parametrize("colluding", [0, 1, 2])
def test_two_lists_take_one_colluding_member_more_than_the_bound(scene: Scene, colluding: int) -> None:
    """2 · 3 > 5 + c bears no colluding member; with one, some story has both lists opened.

    The coordinator tells each honest member one of two lists, in all ways. Colluding ones sign both.
    """
    lists = names(SIZE)[:9], [*names(SIZE)[:8], names(SIZE)[9]]
    colluders, honest = (
        scene.members[1 : 1 + colluding],
        [scene.members[0], *scene.members[1 + colluding :]],
    )
    opened_both = 0
    for story in product((0, 1), repeat=len(honest)):
        opened = []
        for which, survivors in enumerate(lists):
            signers = [site for site, told in zip(honest, story, strict=True) if told == which]
            signers = [site for site in signers if site in survivors]
            sites = copy(scene.sites)
            signatures = sites.confirm(survivors, signers)
            forged = [site for site in colluders if site in survivors]
            signatures |= {site: forge_signature(site, scene.digest, survivors) for site in forged}
            try:
                # One holder each, who may not sign and would believe either.
                opened.append(sites.reveal(survivors, signatures, [scene.others[which]]))
            except AggregationError:
                continue
        opened_both += len(opened) == 2
    within = colluding <= most_colluding(len(MEMBERS), 3)
    assert within == (colluding == 0)
    assert (opened_both == 0) == within


def test_all_sign_where_all_mask_with_all() -> None:
    roster = Sites(make_rules(5)).roster()
    assert roster.committee == everyone(5, threshold=4)
    assert roster.signers == set(names(5))


def test_a_site_verifies_the_keys_that_it_uses(few_sign: None) -> None:
    """A session key that its site did not sign is refused by who masks with it; others do not use it."""
    sites = Sites(make_rules(SIZE))
    liar = names(SIZE)[5]
    sites.members[liar] = replace(sites.members[liar], signature=bytes(64))
    roster = sites.roster()
    (far,) = {0, 1, 2, 3, 4, 6, 7, 8, 9} - {*roster.graph.neighbours[5], 1, 9}
    refused = [names(SIZE)[place] for place in roster.graph.neighbours[5]]
    for site in refused:
        with pytest.raises(AggregationError, match=f"{liar} did not sign its session key"):
            sites.deal(roster, [site])
    dealt = sites.deal(roster, [names(SIZE)[far]])
    assert len(dealt[names(SIZE)[far]].sealed) == 6
    # An identity is pinned for everybody.
    stranger = replace(sites.members[liar], identity=bytes(31) + b"\x01")
    sites.members[liar] = stranger
    with pytest.raises(AggregationError, match="known here by another identity"):
        sites.deal(sites.roster(2), [names(SIZE)[far]])


def test_a_sparse_roster_has_the_committee_of_its_digest() -> None:
    sites = Sites(make_rules(150, threshold=135))
    first, second = sites.roster(1), sites.roster(2)
    assert first.graph.sparse
    assert first.committee == make_committee(150, threshold=135, colluding=0, seed=first.digest)
    assert first.committee != second.committee
    assert len(first.signers) == 40
