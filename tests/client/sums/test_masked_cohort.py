"""A site that sums under masks refuses a sum that is not of its round's cohort, and says why."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.roster import Cohort, Roster
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import read_dealing, write_roster
from simulation.simulated_federation import World
from tests import tiny
from tests.client.masked_sites import MaskedSites
from tests.client.sites import ask, charges

CHANGES = {
    "federation": {"sites": 6, "cohort": 3},
    "training": {"rounds": 2, "batch_size": 8},
    "aggregation": {"kind": "masks"},
}


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, **CHANGES))


@pytest.fixture
def sites(world: World, tmp_path: Path) -> MaskedSites:
    return MaskedSites(world, tmp_path)


def drawn(sites: MaskedSites, number: int = 1) -> list[str]:
    return sorted(sites.manifest.drawn(number) or ())


def roster_of(sites: MaskedSites, names: Collection[str], number: int = 1) -> Roster:
    members = tuple(sites.members[name] for name in sorted(names))
    return Roster(rules=sites.rules, number=number, members=members)


def deal(sites: MaskedSites, names: Collection[str]) -> dict[str, Cohort]:
    """What each of these sites would be handed on, had all of them dealt for one sum."""
    roster = roster_of(sites, names)
    request = pb.Deal(manifest_digest=sites.manifest.digest, roster=write_roster(roster))
    dealings = {name: read_dealing(name, sites.ask(name, "dealing", deal=request)) for name in names}
    return forward(roster, dealings)


def check_refused(sites: MaskedSites, name: str, request: pb.Train, words: str) -> None:
    """Refused in these words, with nothing charged."""
    reason = ask(sites.sites[name], train=request).refused.reason
    assert words in reason
    assert not charges(sites.homes / name)


def test_a_site_that_was_not_drawn_is_named(sites: MaskedSites) -> None:
    first, second, third = drawn(sites)
    stranger = drawn(sites, 2)[0]
    assert stranger not in (first, second, third)
    cohorts = deal(sites, [first, second, stranger])
    words = f"cohort: {stranger!r} would be in the sum of round 1 and not drawn for it"
    for name in (first, second):
        check_refused(sites, name, sites.train_request(cohorts[name]), words)
    # It knows itself that it is in no such round.
    request = sites.train_request(cohorts[stranger])
    check_refused(sites, stranger, request, f"site {stranger} is not drawn for round 1 of this run")


def test_a_sum_for_another_rounds_cohort_is_refused(sites: MaskedSites) -> None:
    """All three are drawn together, for the second round and not for the first."""
    cohorts = deal(sites, drawn(sites, 2))
    name = drawn(sites, 2)[0]
    check_refused(sites, name, sites.train_request(cohorts[name]), f"site {name} is not drawn for round 1")
    sites.ask(name, "trained", train=sites.train_request(cohorts[name], round_number=2))
    assert [charge.round for charge in charges(sites.homes / name)] == [2]


@pytest.mark.parametrize("whose", ["another's", "its own"])
def test_a_cohort_with_one_left_out_is_refused(sites: MaskedSites, whose: str) -> None:
    """All three are needed for a round here: with one fewer, two would know the third's update."""
    name, _, last = drawn(sites)
    whole = sites.train_request(deal(sites, drawn(sites))[name])
    less, left_out = pb.Train(), last if whose == "another's" else name
    less.CopyFrom(whole)
    (place,) = [place for place, one in enumerate(less.cohort.dealt) if one.site == left_out]
    del less.cohort.dealt[place]
    check_refused(sites, name, less, "cohort: expected at least 3 sites, got 2")
    sites.ask(name, "trained", train=whole)
    assert len(charges(sites.homes / name)) == 1


def test_secrets_are_not_dealt_among_fewer(sites: MaskedSites) -> None:
    names = drawn(sites)
    request = pb.Deal(manifest_digest=sites.manifest.digest, roster=write_roster(roster_of(sites, names)))
    del request.roster.members[2]
    refused = ask(sites.sites[names[0]], deal=request).refused
    assert "cohort: expected from 3 to 3 sites, got 2" in refused.reason


def test_one_that_is_away_may_be_left_out_where_the_job_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    changes = CHANGES | {
        "federation": {"sites": 6, "cohort": 3, "min_sites": 2},
        "aggregation": {"kind": "masks", "threshold": 2},
    }
    sites = MaskedSites(World(tiny.job(tiny_folder, **changes)), tmp_path)
    first, second, third = drawn(sites)
    cohorts = deal(sites, [first, third])
    assert third in cohorts
    assert second not in cohorts
    request = sites.train_request(cohorts[first])
    of_others = pb.Train()
    of_others.CopyFrom(request)
    of_others.cohort.CopyFrom(sites.train_request(cohorts[third]).cohort)
    del of_others.cohort.dealt[0]
    check_refused(sites, first, of_others, "cohort: expected at least 2 sites, got 1")
    sites.ask(first, "trained", train=request)
