"""Sums as they travel: nothing is read that is not of its size, and all else comes back as it was."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError, JobError, ProtocolError
from privacy.secagg.ring import Ring
from privacy.secagg.roster import Cohort, Dealing, Dealt, Member, Roster
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    asked_to_evaluate,
    asked_to_train,
    make_rules,
    read_cohort,
    read_dealing,
    read_joined,
    read_roster,
    read_shares,
    read_signatures,
    write_cohort,
    write_dealing,
    write_roster,
    write_shares,
)
from protocol.sums.sum_kinds import check_sums
from tests.privacy.exchanges import Sites, identity_of, names
from tests.privacy.exchanges import make_rules as rules_of
from tests.protocol.fuzzing import Fuzzer, allowed_bytes
from tests.server.runs import make_job

RULES = rules_of(4)
SITES = Sites(RULES)
ROSTER = SITES.roster()
KEY, SIGNATURE, SEALED, SHARE = bytes(32), bytes(64), bytes(80), bytes(32)


def refused(act: Callable[[], object], rule: str, words: str = "") -> None:
    with pytest.raises(AggregationError, match=words) as caught:
        act()
    assert caught.value.rule == rule


def make_manifest(cohort: int = 3, **sections: Any) -> Manifest:
    return Manifest(
        run="run",
        job=make_job(**({"aggregation": {"kind": "masks"}} | sections)),
        cohort=cohort,
        labels=("bad", "good"),
        model_digest="a" * 64,
        layout_digest="b" * 64,
    )


# What is refused.


@pytest.mark.parametrize("field", ["identity", "key", "signature"])
@pytest.mark.parametrize("change", [lambda c: b"", lambda c: c[:-1], lambda c: c + b"\0"])
def test_a_members_parts_of_another_size_are_refused(field: str, change: Callable[[bytes], bytes]) -> None:
    message = write_roster(ROSTER)
    member = message.members[2]
    setattr(member, field, change(getattr(member, field)))
    refused(lambda: read_roster(message, RULES), "size", "got ")


@pytest.mark.parametrize("field", ["key", "commitment", "sealed"])
@pytest.mark.parametrize("size", [1, 31, 33, 79, 81, 4096])
def test_a_dealings_parts_of_another_size_are_refused(field: str, size: int) -> None:
    message = pb.Dealing(key=KEY, commitment=KEY, sealed=[SEALED])
    dealt = pb.Dealt(site="a", key=KEY, commitment=KEY, sealed=SEALED)
    if field == "sealed":
        message.sealed.append(bytes(size))
    else:
        setattr(message, field, bytes(size))
    setattr(dealt, field, bytes(size))
    refused(lambda: read_dealing("a", message), "size", f"of a in .* bytes, got {size}")
    refused(
        lambda: read_cohort(pb.Cohort(dealt=[dealt]), RULES, asked=b""), "size", f"of a in .*, got {size}"
    )


def test_a_site_that_holds_no_share_gets_none() -> None:
    """Among many, not all are neighbours: what is empty for them is no wrong size."""
    dealt = pb.Dealt(site="a", key=KEY, commitment=KEY)
    assert read_cohort(pb.Cohort(dealt=[dealt]), RULES, asked=b"").of("a").sealed == b""
    refused(lambda: read_dealing("a", pb.Dealing(key=KEY, commitment=KEY, sealed=[b""])), "size")


@pytest.mark.parametrize("count", [5, 100_000])
def test_more_sites_than_the_run_has_are_not_even_looked_at(count: int) -> None:
    roster = pb.Roster(number=1, members=[pb.Member(site="a")] * count)
    cohort = pb.Cohort(number=1, dealt=[pb.Dealt(site="a")] * count)
    tracemalloc.start()
    refused(lambda: read_roster(roster, RULES), "cohort", f"at most 4 sites, got {count}")
    refused(lambda: read_cohort(cohort, RULES, asked=b""), "cohort", f"at most 4 sites, got {count}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # An error and its traceback, whatever the count.
    assert peak < 50_000


def test_a_roster_of_too_few_sites_or_without_a_number_is_refused() -> None:
    message = write_roster(ROSTER)
    message.number = 0
    refused(lambda: read_roster(message, RULES), "replay")
    message.number = 1
    del message.members[2:]
    refused(lambda: read_roster(message, RULES), "cohort", "from 3 to 4 sites, got 2")
    refused(lambda: read_roster(pb.Roster(), RULES), "cohort")


def test_two_signatures_of_one_site_are_refused() -> None:
    one = pb.Signed(site="a", signature=SIGNATURE)
    assert read_signatures(pb.Unmask(signatures=[one])) == {"a": SIGNATURE}
    refused(lambda: read_signatures(pb.Unmask(signatures=[one, one])), "survivors", "one signature a site")
    short = pb.Signed(site="a", signature=SIGNATURE[:-1])
    refused(lambda: read_signatures(pb.Unmask(signatures=[short])), "size", "of a in 64 bytes, got 63")


@pytest.mark.parametrize(("places", "rule"), [([4], "share"), ([2**32 - 1], "share"), ([0, 1, 0], "share")])
def test_shares_of_nobody_or_twice_are_refused(places: list[int], rule: str) -> None:
    message = pb.Unmasked(shares=[pb.Share(place=place, share=SHARE) for place in places])
    refused(lambda: read_shares(message, ROSTER), rule, "one share a place")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_shares_of_another_size_are_refused(size: int) -> None:
    message = pb.Unmasked(shares=[pb.Share(place=0, share=bytes(size))])
    refused(lambda: read_shares(message, ROSTER), "size")


@pytest.mark.parametrize(
    ("cohort", "sections", "words"),
    [
        (1, {}, ["expected two sites or more, got one", 'aggregation.kind="none"']),
        (5, {"federation": {"min_sites": 3}}, ["federation.min_sites=3", "aggregation.threshold=4 of 5"]),
        (5, {"federation": {"min_sites": 3}}, ["raise min_sites", "lower threshold, 3 at least"]),
        (4, {"aggregation": {"threshold": 2}}, ["[aggregation]", "threshold above 2", "threshold=2"]),
        (
            3,
            {"aggregation": {"threshold": 4}},
            ["aggregation.threshold=4: expected at most 3, the number of sites"],
        ),
        (4, {"aggregation": {"colluding": 2}}, ["[aggregation]", "threshold above 3", "colluding=2"]),
        (3, {"aggregation": {"colluding": 2, "threshold": 3}}, ["[aggregation]", "of two beside"]),
    ],
)
def test_sums_that_are_not_safe_are_refused_before_a_run_is_made(
    cohort: int, sections: dict[str, Any], words: list[str]
) -> None:
    manifest = make_manifest(cohort, **sections)
    with pytest.raises(JobError) as caught:
        check_sums(manifest)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    # A run whose updates are read one by one has no such rules.
    check_sums(make_manifest(cohort, aggregation={"kind": "none"}))


@pytest.mark.parametrize("field", ["public_key", "session_key", "session_signature", "site", "run"])
def test_a_site_is_no_member_unless_it_signed_its_session_key_for_this_run(field: str) -> None:
    manifest, identity = make_manifest(), identity_of("a")
    member = Member.sign("a", KEY[:-1] + b"\x09", identity=identity, manifest=manifest.digest)
    joined = pb.Joined(
        public_key=member.identity, session_key=member.key, session_signature=member.signature
    )
    assert read_joined("a", joined, manifest) == member
    if field == "site":
        refused(lambda: read_joined("b", joined, manifest), "key")
    elif field == "run":
        refused(lambda: read_joined("a", joined, replace(manifest, run="other")), "key")
    else:
        for wrong in (b"", KEY, SIGNATURE, getattr(joined, field)[:-1]):
            changed = pb.Joined()
            changed.CopyFrom(joined)
            setattr(changed, field, wrong)
            with pytest.raises(AggregationError):
                read_joined("a", changed, manifest)


# What comes back as it was.


def of(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


# Whatever order they are drawn in, sites are in order of name.
SUBSETS = st.sets(st.sampled_from(names(4)), min_size=1).map(sorted)


@settings(max_examples=30, deadline=None)
@given(number=st.integers(1, 2**32 - 1), left_out=st.sampled_from([None, *names(4)]))
def test_rosters_come_back(number: int, left_out: str | None) -> None:
    roster: Roster = SITES.roster(number, [site for site in names(4) if site != left_out])
    message = pb.Roster.FromString(write_roster(roster).SerializeToString())
    assert read_roster(message, RULES) == roster
    assert read_roster(message, RULES).digest == roster.digest


ASKED = [
    pb.Train(),
    pb.Train(round=1),
    pb.Train(round=2),
    pb.Train(noise_std=1.0),
    pb.Train(noise_std=1.0 + 2.0**-52),
    pb.Train(adapter=bytes(1)),
    pb.Train(adapter=bytes(2)),
    pb.Train(round=1, noise_std=1.0, adapter=bytes(1)),
    pb.Train(beside=bytes(1)),
    pb.Train(adapter=bytes(1), beside=bytes(1)),
    pb.Evaluate(),
    pb.Evaluate(adapter=bytes(1)),
    pb.Evaluate(adapter=bytes(2)),
]


def test_what_is_asked_has_a_digest_of_its_own() -> None:
    """Sites that are asked for two different things have no mask in common."""
    digests = [
        asked_to_train(request) if isinstance(request, pb.Train) else asked_to_evaluate(request)
        for request in ASKED
    ]
    assert {len(digest) for digest in digests} == {32}
    assert len(set(digests)) == len(digests)
    cohort = Cohort(dealt=(Dealt(site="a", key=KEY, commitment=KEY, sealed=SEALED),))
    cohorts = {replace(cohort, asked=digest).digest(ROSTER) for digest in digests}
    assert len(cohorts | {cohort.digest(ROSTER)}) == len(digests) + 1


def test_a_digest_is_that_of_its_own_adapter_whatever_was_asked_before() -> None:
    one, other = (pb.Train(round=1, adapter=bytes([number]), beside=b"b") for number in range(2))
    digests = [asked_to_train(request) for request in (one, other, other, one, one, other)]
    assert digests == [digests[place] for place in (0, 1, 1, 0, 0, 1)]
    assert digests[0] != digests[1]


def test_what_differs_from_site_to_site_is_not_in_it() -> None:
    """Shares are sealed for each, and the sum's number is in the roster's digest."""
    one, other = pb.Train(round=1), pb.Train(round=1)
    other.cohort.number = 7
    other.cohort.dealt.add(site="a", sealed=SEALED)
    other.next.number = 8
    assert asked_to_train(one) == asked_to_train(other)


@settings(max_examples=50, deadline=None)
@given(sites=SUBSETS, data=st.data(), number=st.integers(0, 2**32 - 1))
def test_dealings_and_cohorts_come_back(sites: list[str], data: st.DataObject, number: int) -> None:
    keys = data.draw(st.lists(of(32), min_size=len(sites), max_size=len(sites), unique=True))
    cohort = Cohort(
        dealt=tuple(
            Dealt(
                site=site,
                key=key,
                commitment=data.draw(of(32)),
                sealed=data.draw(st.one_of(st.just(b""), of(80))),
            )
            for site, key in zip(sites, keys, strict=True)
        ),
        asked=data.draw(of(32)),
    )
    message = pb.Cohort.FromString(write_cohort(cohort, number=number).SerializeToString())
    assert (read_cohort(message, RULES, asked=cohort.asked), message.number) == (cohort, number)
    dealing = Dealing(
        site=sites[0],
        key=keys[0],
        commitment=data.draw(of(32)),
        sealed=tuple(data.draw(st.lists(of(80), max_size=4))),
    )
    again = pb.Dealing.FromString(write_dealing(dealing).SerializeToString())
    assert read_dealing(sites[0], again) == dealing


@settings(max_examples=50, deadline=None)
@given(shares=st.dictionaries(st.sampled_from(names(4)), of(32)))
def test_shares_come_back(shares: dict[str, bytes]) -> None:
    message = pb.Unmasked.FromString(write_shares(shares, ROSTER).SerializeToString())
    assert read_shares(message, ROSTER) == shares


@settings(max_examples=50, deadline=None)
@given(signatures=st.dictionaries(st.text(max_size=8), of(64)))
def test_signatures_come_back(signatures: dict[str, bytes]) -> None:
    signed = [pb.Signed(site=site, signature=one) for site, one in signatures.items()]
    message = pb.Unmask.FromString(pb.Unmask(signatures=signed).SerializeToString())
    assert read_signatures(message) == signatures


def test_the_rules_are_those_of_the_manifest() -> None:
    manifest = make_manifest(
        9,
        federation={"min_sites": 8},
        aggregation={"threshold": 7, "colluding": 2, "confirm": False},
    )
    check_sums(manifest)
    found = make_rules(manifest)
    assert found.manifest == manifest.digest
    assert (found.cohort, found.threshold, found.min_survivors) == (9, 7, 8)
    assert (found.colluding, found.confirm) == (2, False)
    # Left out: two thirds and more, and everybody.
    assert make_rules(make_manifest(9)).threshold == 7
    assert make_rules(make_manifest(9)).min_survivors == 9


# Whatever comes in.


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("seed", range(4))
def test_spoilt_messages_are_refused_in_words_and_cost_no_more_memory_than_they_may(seed: int) -> None:
    """10,000 in all; benchmarks/fuzz.py reads more. An error that is none of ours fails the test."""
    fuzzer, ends, over = Fuzzer(seed), Counter[str](), []
    for number in range(2500):
        name, content = fuzzer.draw()
        measured = number % 5 == 0
        if measured:
            tracemalloc.start()
        ends[f"{name} {fuzzer.read(name, content)}"] += 1
        if measured:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            if peak > allowed_bytes(content):
                over.append((name, len(content), peak))
    assert over == []
    # Inputs are neither all nonsense nor all in order: each reader got some of both.
    for name in ("request", "reply", "state", "words"):
        assert ends[f"{name} read"] > 10
        assert sum(ends[end] for end in ends if end.startswith(name)) > ends[f"{name} read"] + 10


def test_words_are_refused_by_their_size_before_room_is_made_for_them() -> None:
    tracemalloc.start()
    for bits in (16, 20, 32, 64):
        with pytest.raises(ProtocolError, match="words of"):
            Ring(bits).unpack(b"\0" * 100, size=2**40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
