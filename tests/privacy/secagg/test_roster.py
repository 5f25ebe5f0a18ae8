"""Who takes part: rules that cannot hold, sites that nobody knows, and lists that differ in anything."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secagg.roster import Cohort, Dealt, Member, Roster, Rules, check_sites, survivors_digest
from privacy.secagg.sealing import AgreementKey
from tests.privacy.exchanges import MANIFEST, Sites, identity_of, make_rules, names

KEY = AgreementKey(bytes(range(1, 33))).public
OTHER_KEY = AgreementKey(bytes(range(2, 34))).public


def members(count: int) -> tuple[Member, ...]:
    return Sites(make_rules(count)).roster().members


def make_roster(**changes: object) -> Roster:
    return Roster(**({"rules": make_rules(5), "number": 1, "members": members(5)} | changes))


def make_cohort(sites: list[str]) -> Cohort:
    return Cohort(
        dealt=tuple(Dealt(site=site, key=site.encode() * 4, commitment=site.encode()) for site in sites)
    )


def refusal(cohort: int, **rules: int) -> str:
    try:
        Rules(manifest=MANIFEST, cohort=cohort, **rules)
    except AggregationError as refused:
        return refused.rule
    return ""


def test_rules_are_those_of_the_threat_model() -> None:
    """c < 2t − n, t ≤ n; sums of t or more, with two honest sites in each: these, and no others."""
    for cohort, threshold, min_survivors, colluding in product(
        range(1, 11), range(12), range(12), range(11)
    ):
        expected = "cohort"
        if not (colluding < 2 * threshold - cohort and threshold <= cohort):
            expected = "threshold"
        elif threshold <= min_survivors <= cohort and min_survivors - colluding >= 2:
            expected = ""
        assert (
            refusal(cohort, threshold=threshold, min_survivors=min_survivors, colluding=colluding)
            == expected
        )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"members": ()}, "cohort"),
        ({"members": members(5)[:3]}, "cohort"),
        ({"members": members(6)}, "cohort"),
        ({"members": members(5)[::-1]}, "cohort"),
        ({"members": (*members(4), members(4)[3])}, "cohort"),
        ({"members": (*members(4), replace(members(4)[3], site="site-04"))}, "peers"),
        ({"number": 0}, "replay"),
        ({"number": -1}, "replay"),
    ],
)
def test_lists_that_cannot_be_are_refused(changes: dict[str, object], rule: str) -> None:
    """Too few, too many, not in order, one twice, one under two names, and an exchange before the first."""
    make_roster()
    with pytest.raises(AggregationError) as refused:
        make_roster(**changes)
    assert refused.value.rule == rule


@pytest.mark.parametrize("sites", [["b", "a"], ["a", "a"], ["a", "b", "a"], ["a", "B"]])
def test_names_are_distinct_and_in_order(sites: list[str]) -> None:
    for call in (lambda: check_sites(sites), lambda: make_cohort(sites)):
        with pytest.raises(AggregationError, match="order of name") as refused:
            call()
        assert refused.value.rule == "cohort"


def test_a_cohort_has_a_key_for_each_site() -> None:
    dealt = make_cohort(["a", "b"]).dealt
    with pytest.raises(AggregationError, match="different key") as refused:
        Cohort(dealt=(dealt[0], replace(dealt[1], key=dealt[0].key)))
    assert refused.value.rule == "key"


def test_who_is_not_there_has_no_place() -> None:
    for call in (lambda: make_roster().place("site-05"), lambda: make_cohort(["a", "b"]).of("c")):
        with pytest.raises(AggregationError) as refused:
            call()
        assert refused.value.rule == "cohort"
    assert [make_roster().place(site) for site in names(5)] == list(range(5))


SIGNED = Member.sign("site-00", KEY, identity=identity_of("site-00"), manifest=MANIFEST)


@pytest.mark.parametrize(
    ("member", "manifest", "pinned", "rule"),
    [
        (SIGNED, MANIFEST, None, "peers"),
        (SIGNED, MANIFEST, identity_of("site-01").public, "peers"),
        (replace(SIGNED, identity=identity_of("site-01").public), MANIFEST, SIGNED.identity, "peers"),
        (SIGNED, bytes(32), SIGNED.identity, "key"),
        (replace(SIGNED, key=OTHER_KEY), MANIFEST, SIGNED.identity, "key"),
        (replace(SIGNED, site="site-01"), MANIFEST, SIGNED.identity, "key"),
        (replace(SIGNED, signature=bytes(64)), MANIFEST, SIGNED.identity, "key"),
        (replace(SIGNED, signature=SIGNED.signature[:63]), MANIFEST, SIGNED.identity, "key"),
        (
            Member.sign("site-00", KEY, identity=identity_of("site-01"), manifest=MANIFEST),
            MANIFEST,
            SIGNED.identity,
            "peers",
        ),
        (
            replace(
                Member.sign("site-00", KEY, identity=identity_of("site-01"), manifest=MANIFEST),
                identity=SIGNED.identity,
            ),
            MANIFEST,
            SIGNED.identity,
            "key",
        ),
    ],
)
def test_a_member_is_pinned_and_signed_for_this_run(
    member: Member, manifest: bytes, pinned: bytes | None, rule: str
) -> None:
    SIGNED.check(MANIFEST, pinned=SIGNED.identity)
    with pytest.raises(AggregationError) as refused:
        member.check(manifest, pinned=pinned)
    assert refused.value.rule == rule


def test_rosters_that_differ_in_anything_have_different_digests() -> None:
    rules, all_members = make_rules(5), members(5)
    changed = [replace(all_members[0], key=KEY), *all_members[1:]]
    found = [
        make_roster(),
        make_roster(number=2),
        make_roster(members=all_members[:4]),
        make_roster(members=all_members[1:]),
        make_roster(members=tuple(changed)),
        make_roster(rules=replace(rules, manifest=bytes(32))),
        make_roster(rules=replace(rules, threshold=3)),
        make_roster(rules=replace(rules, min_survivors=5)),
    ]
    assert len({roster.digest for roster in found}) == len(found)
    assert make_roster().digest == make_roster().digest


def test_cohorts_that_differ_in_anything_have_different_digests() -> None:
    """But for what is sealed, which differs from one recipient to the next."""
    roster, cohort = make_roster(), make_cohort(names(5))
    first = cohort.dealt[0]
    others = [
        Cohort(dealt=(replace(first, **change), *cohort.dealt[1:]))
        for change in ({"key": KEY}, {"commitment": KEY}, {"site": "a"}, {"sealed": b"other"})
    ]
    digests = {found.digest(roster) for found in (cohort, *others, make_cohort(names(4)))}
    assert len(digests) == 5
    assert others[-1].digest(roster) == cohort.digest(roster)
    assert cohort.digest(make_roster(number=2)) not in digests


@settings(max_examples=100, deadline=None)
@given(
    first=st.lists(st.text("ab", max_size=3), max_size=4),
    second=st.lists(st.text("ab", max_size=3), max_size=4),
)
def test_survivors_are_framed(first: list[str], second: list[str]) -> None:
    digests = survivors_digest(MANIFEST, first), survivors_digest(MANIFEST, second)
    assert (digests[0] == digests[1]) == (first == second)
    assert survivors_digest(bytes(32), first) != digests[0]
