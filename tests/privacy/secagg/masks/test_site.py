"""A site's steps: what it refuses of a coordinator that lies, and what it forgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property

import pytest

from privacy.errors import AggregationError, LostError
from privacy.secagg.masks import site_steps as secagg
from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.masks.site_steps import SiteState
from privacy.secagg.ring import Ring
from privacy.secagg.roster import Cohort, Dealt, Member, Roster
from privacy.secagg.sealing import AgreementKey, seal
from privacy.secagg.shamir import PRIME
from tests.privacy.exchanges import (
    MANIFEST,
    Sites,
    contribute,
    draw_vectors,
    forge_signature,
    identity_of,
    make_rules,
    names,
)
from tests.privacy.secagg.test_sealing import LOW_ORDER

RING = Ring(32)
ME, OTHER, THIRD, FOURTH, COLLUDER = names(5)
STRANGER = "site-99"
FRESH = AgreementKey(bytes(range(32))).public


class Scene:
    """Five sites, four of which must take part, at each stage of the second exchange of a run."""

    def __init__(self) -> None:
        self.vectors = draw_vectors(names(5), ring=RING, size=3)
        sites = Sites(make_rules(5))
        self.first = sites.roster(1)
        self.old_dealings = sites.deal(self.first)
        sites.contribute(forward(self.first, self.old_dealings), self.vectors, ring=RING, number=1)
        self.old_signatures = copy(sites).confirm(names(5), number=1)
        self.before = copy(sites)
        self.roster = sites.roster(2)
        self.dealings = sites.deal(self.roster)
        self.cohorts = forward(self.roster, self.dealings)
        self.dealt = copy(sites)
        sites.contribute(self.cohorts, self.vectors, ring=RING, number=2)
        self.masked = copy(sites)
        self.signatures = sites.confirm(names(5), number=2)
        self.confirmed = sites

    @cached_property
    def digest(self) -> bytes:
        return self.cohorts[ME].digest(self.roster)

    def deal(self, **changes: object) -> object:
        roster = Roster(
            **({"rules": self.roster.rules, "number": 2, "members": self.roster.members} | changes)
        )
        site = self.before
        return secagg.deal(site.states[ME], roster, peers=site.peers, random=site.random)

    def contribute(self, *dealt: Dealt, number: int = 2, state: SiteState | None = None) -> object:
        cohort = Cohort(dealt=dealt or self.cohorts[ME].dealt)
        state = state or self.dealt.states[ME]
        return contribute(state, cohort, self.vectors[ME], number=number, ring=RING)

    def changed(self, site: str, **changes: object) -> object:
        dealt = self.cohorts[ME].dealt
        return self.contribute(*(replace(each, **changes) if each.site == site else each for each in dealt))

    def resealed(self, content: bytes, *, key: bytes = FRESH) -> object:
        """What a site that colludes may have dealt: anything, sealed as it should be."""
        session = AgreementKey(self.dealt.states[COLLUDER].key)
        me = self.roster.members[0].key
        sealing = secagg._sealing_key(session.agree(me), self.roster, COLLUDER, ME, key)
        return self.changed(COLLUDER, key=key, sealed=seal(sealing, content))

    def confirm(self, *survivors: str, number: int = 2, state: SiteState | None = None) -> object:
        state = state or self.masked.states[ME]
        return secagg.confirm(state, survivors, number=number, identity=identity_of(ME))

    def reveal(
        self, *survivors: str, number: int = 2, state: SiteState | None = None, **signed: bytes
    ) -> object:
        state = state or self.confirmed.states[ME]
        signatures = {site.replace("_", "-"): signature for site, signature in signed.items()}
        return secagg.reveal(
            state, survivors or names(5), number=number, signatures=signatures or self.signatures
        )

    def signed(self, sites: Mapping[str, bytes] | list[str], **changes: bytes) -> dict[str, bytes]:
        return {site.replace("-", "_"): self.signatures[site] for site in sites} | changes


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


Case = Callable[[Scene], object]


def member(scene: Scene, place: int, **changes: object) -> dict[str, object]:
    members = list(scene.roster.members)
    members[place] = replace(members[place], **changes)
    return {"members": tuple(members)}


def invented(scene: Scene, site: str) -> dict[str, object]:
    """A site that the coordinator made up, in the place of the last one."""
    made_up = Member.sign(site, FRESH, identity=identity_of("made up"), manifest=MANIFEST)
    return {"members": (*scene.roster.members[:4], made_up)}


def weak(key: bytes) -> Member:
    """A site that colludes signs for any key, here one that is none."""
    return Member.sign(COLLUDER, key, identity=identity_of(COLLUDER), manifest=MANIFEST)


def rejoined(scene: Scene) -> dict[str, object]:
    sites = copy(scene.before)
    sites.join(ME)
    return {"members": sites.roster(2).members}


# What a site does not deal for.
ROSTERS: dict[str, tuple[Case, str]] = {
    "of another run": (
        lambda s: s.deal(rules=replace(s.roster.rules, manifest=bytes(32))),
        "replay",
    ),
    "of an exchange that is over": (lambda s: s.deal(number=1), "replay"),
    "without this site": (lambda s: s.deal(members=s.roster.members[1:]), "cohort"),
    "with another session of this site": (lambda s: s.deal(**rejoined(s)), "secrets"),
    "with a site that nobody knows": (lambda s: s.deal(**invented(s, STRANGER)), "peers"),
    "with a known name for an unknown site": (lambda s: s.deal(**invented(s, COLLUDER)), "peers"),
    "with another's identity": (
        lambda s: s.deal(**member(s, 1, identity=identity_of("made up").public)),
        "peers",
    ),
    "with another's session key": (lambda s: s.deal(**member(s, 1, key=s.roster.members[2].key)), "key"),
    "with a session key nobody signed": (lambda s: s.deal(**member(s, 1, key=FRESH)), "key"),
    "with a session key of another run": (
        lambda s: s.deal(
            members=(
                s.roster.members[0],
                Member.sign(OTHER, FRESH, identity=identity_of(OTHER), manifest=bytes(32)),
                *s.roster.members[2:],
            )
        ),
        "key",
    ),
    "with a session key that anyone shares a secret with": (
        lambda s: s.deal(members=(*s.roster.members[:4], weak(LOW_ORDER[2]))),
        "key",
    ),
    "with one site twice": (
        lambda s: s.deal(members=(*s.roster.members[:4], s.roster.members[3])),
        "cohort",
    ),
    "with too few": (lambda s: s.deal(members=s.roster.members[:3]), "cohort"),
}


def sealed_for(scene: Scene, receiver: str, dealer: str) -> bytes:
    return scene.cohorts[receiver].of(dealer).sealed


def again(scene: Scene) -> object:
    """The cohort of before, after this site has dealt anew for the same exchange."""
    sites = copy(scene.dealt)
    sites.deal(scene.roster, [ME])
    return scene.contribute(state=sites.states[ME])


def old(scene: Scene) -> Cohort:
    return forward(scene.first, scene.old_dealings)[ME]


HONEST_SHARE = bytes(32)
# What a site masks nothing for.
COHORTS: dict[str, tuple[Case, str]] = {
    "too few": (lambda s: s.contribute(*s.cohorts[ME].dealt[:3]), "cohort"),
    "without this site": (lambda s: s.contribute(*s.cohorts[ME].dealt[1:]), "cohort"),
    "with a site that was not asked": (
        lambda s: s.contribute(
            *s.cohorts[ME].dealt, Dealt(site=STRANGER, key=FRESH, commitment=FRESH, sealed=bytes(80))
        ),
        "cohort",
    ),
    "an invented site in another's place": (
        lambda s: s.contribute(*s.cohorts[ME].dealt[:4], replace(s.cohorts[ME].dealt[4], site=STRANGER)),
        "cohort",
    ),
    "one site twice": (lambda s: s.contribute(*s.cohorts[ME].dealt, s.cohorts[ME].dealt[4]), "cohort"),
    "one key twice": (lambda s: s.changed(OTHER, key=s.dealings[THIRD].key), "key"),
    "another key of this site": (lambda s: s.changed(ME, key=FRESH), "key"),
    "another commitment of this site": (lambda s: s.changed(ME, commitment=FRESH), "key"),
    "another key of another site": (lambda s: s.changed(OTHER, key=FRESH), "sealed"),
    "another's sealed shares": (
        lambda s: s.changed(OTHER, sealed=s.cohorts[ME].of(THIRD).sealed),
        "sealed",
    ),
    "shares for another's point": (
        lambda s: s.changed(OTHER, sealed=sealed_for(s, THIRD, OTHER)),
        "sealed",
    ),
    "shares sent back to their dealer": (
        lambda s: s.changed(OTHER, sealed=sealed_for(s, OTHER, ME)),
        "sealed",
    ),
    "no shares": (lambda s: s.changed(OTHER, sealed=b""), "sealed"),
    "truncated": (lambda s: s.changed(OTHER, sealed=sealed_for(s, ME, OTHER)[:-1]), "sealed"),
    "oversized": (lambda s: s.changed(OTHER, sealed=sealed_for(s, ME, OTHER) + b"\0"), "sealed"),
    "garbage": (lambda s: s.changed(OTHER, sealed=bytes(80)), "sealed"),
    "a dealing of an earlier exchange": (
        lambda s: s.changed(
            OTHER, **{part: getattr(old(s).of(OTHER), part) for part in ("key", "commitment", "sealed")}
        ),
        "sealed",
    ),
    "the whole cohort of an earlier exchange": (lambda s: s.contribute(*old(s).dealt), "key"),
    "an earlier cohort of this exchange": (again, "key"),
    "one share": (lambda s: s.resealed(HONEST_SHARE), "share"),
    "two shares and a byte": (lambda s: s.resealed(2 * HONEST_SHARE + b"\0"), "share"),
    "a seed's share beyond the prime": (
        lambda s: s.resealed(PRIME.to_bytes(32, "little") + HONEST_SHARE),
        "share",
    ),
    "a key's share beyond the prime": (lambda s: s.resealed(HONEST_SHARE + b"\xff" * 32), "share"),
    "a key that anyone shares a secret with": (
        lambda s: s.resealed(2 * HONEST_SHARE, key=LOW_ORDER[2]),
        "key",
    ),
    "an exchange that is over": (lambda s: s.contribute(number=1), "replay"),
    "an exchange not dealt for": (lambda s: s.contribute(number=3), "secrets"),
    "a second vector": (lambda s: s.contribute(state=s.masked.states[ME]), "replay"),
    "a second vector as of a later exchange": (
        lambda s: s.contribute(state=s.masked.states[ME], number=3),
        "secrets",
    ),
}


def without(scene: Scene, site: str) -> SiteState:
    """This site, after it masked in a cohort without one of the sites that were asked."""
    sites = copy(scene.dealt)
    cohorts = forward(scene.roster, {k: v for k, v in scene.dealings.items() if k != site})
    sites.contribute({ME: cohorts[ME]}, scene.vectors, ring=RING, number=2)
    return sites.states[ME]


# What a site does not sign.
LISTS: dict[str, tuple[Case, str]] = {
    "other survivors than before": (
        lambda s: s.confirm(*names(5)[:4], state=s.confirmed.states[ME]),
        "survivors",
    ),
    "without this site": (lambda s: s.confirm(*names(5)[1:]), "survivors"),
    "too few": (lambda s: s.confirm(*names(5)[:3]), "survivors"),
    "nobody": (lambda s: s.confirm(), "survivors"),
    "an invented site": (lambda s: s.confirm(*names(5), STRANGER), "survivors"),
    "a site that dealt nothing": (lambda s: s.confirm(*names(5), state=without(s, OTHER)), "survivors"),
    "padded with one site twice": (lambda s: s.confirm(ME, OTHER, THIRD, THIRD), "cohort"),
    "in another order": (lambda s: s.confirm(OTHER, ME, THIRD, FOURTH), "cohort"),
    "before it has masked": (lambda s: s.confirm(*names(5), state=s.dealt.states[ME]), "secrets"),
    "of an earlier exchange": (lambda s: s.confirm(*names(5), number=1), "secrets"),
    "of a later exchange": (lambda s: s.confirm(*names(5), number=3), "secrets"),
}


def done(scene: Scene) -> SiteState:
    return secagg.reveal(scene.confirmed.states[ME], names(5), number=2, signatures=scene.signatures)[0]


def elsewhere(scene: Scene) -> bytes:
    """An honest signature of a site that was shown another cohort, for the same survivors."""
    return forge_signature(OTHER, b"another cohort".ljust(32), names(5))


# What a site reveals nothing for.
REVEALS: dict[str, tuple[Case, str]] = {
    "not confirmed by anybody": (
        lambda s: secagg.reveal(s.masked.states[ME], names(5), number=2, signatures={}),
        "survivors",
    ),
    "other survivors than confirmed": (lambda s: s.reveal(*names(5)[:4]), "survivors"),
    "without this site": (lambda s: s.reveal(*names(5)[1:]), "survivors"),
    "padded with an invented site": (lambda s: s.reveal(*names(5), STRANGER), "survivors"),
    "one site twice": (lambda s: s.reveal(ME, OTHER, THIRD, THIRD), "cohort"),
    "no signatures": (
        lambda s: secagg.reveal(s.confirmed.states[ME], names(5), number=2, signatures={}),
        "survivors",
    ),
    "too few signatures": (lambda s: s.reveal(**s.signed([ME, OTHER, THIRD])), "survivors"),
    "enough and one of no survivor": (
        lambda s: s.reveal(**s.signed(names(5), site_99=forge_signature(STRANGER, s.digest, names(5)))),
        "survivors",
    ),
    "enough with one of no survivor": (
        lambda s: s.reveal(
            **s.signed([ME, OTHER, THIRD], site_99=forge_signature(STRANGER, s.digest, names(5)))
        ),
        "survivors",
    ),
    "a site that is no survivor signs": (
        lambda s: secagg.reveal(
            replace(
                s.confirmed.states[ME],
                holder=replace(s.confirmed.states[ME].holder, survivors=tuple(names(5)[:4])),
            ),
            names(5)[:4],
            number=2,
            signatures={
                site: forge_signature(site, s.digest, names(5)[:4]) for site in (ME, OTHER, THIRD, COLLUDER)
            },
        ),
        "survivors",
    ),
    "one site signs for another": (
        lambda s: s.reveal(**s.signed([ME, OTHER, THIRD], site_03=s.signatures[THIRD])),
        "survivors",
    ),
    "a signature of an earlier exchange": (
        lambda s: s.reveal(**s.signed([ME, OTHER, THIRD], site_03=s.old_signatures[FOURTH])),
        "survivors",
    ),
    "a signature under another cohort": (
        lambda s: s.reveal(**s.signed([ME, THIRD, FOURTH], site_01=elsewhere(s))),
        "survivors",
    ),
    "a signature for other survivors": (
        lambda s: s.reveal(
            **s.signed([ME, OTHER, THIRD], site_03=forge_signature(FOURTH, s.digest, names(5)[:4]))
        ),
        "survivors",
    ),
    "a truncated signature": (
        lambda s: s.reveal(**s.signed([ME, OTHER, THIRD], site_03=s.signatures[FOURTH][:63])),
        "survivors",
    ),
    "a second time": (lambda s: s.reveal(state=done(s)), "secrets"),
    "a second time with other survivors": (lambda s: s.reveal(*names(5)[:4], state=done(s)), "secrets"),
    "signs again after it has revealed": (lambda s: s.confirm(*names(5)[:4], state=done(s)), "secrets"),
    "masks again after it has revealed": (lambda s: s.contribute(state=done(s)), "replay"),
    "of an earlier exchange": (lambda s: s.reveal(number=1), "secrets"),
    "of a later exchange": (lambda s: s.reveal(number=3), "secrets"),
}

CASES = [
    pytest.param(case, rule, id=f"{step}: {name}")
    for step, cases in (("deal", ROSTERS), ("mask", COHORTS), ("sign", LISTS), ("reveal", REVEALS))
    for name, (case, rule) in cases.items()
]


@pytest.mark.parametrize(("case", "rule"), CASES)
def test_a_site_refuses(scene: Scene, case: Case, rule: str) -> None:
    with pytest.raises(AggregationError) as refused:
        case(scene)
    assert refused.value.rule == rule
    # Who has no secrets may join again; any other refusal stays one.
    assert isinstance(refused.value, LostError) == (rule == "secrets")


def test_who_has_a_key_that_is_none_is_named(scene: Scene) -> None:
    """So that the coordinator can do without it."""
    for case, _ in (
        ROSTERS["with a session key that anyone shares a secret with"],
        COHORTS["a key that anyone shares a secret with"],
    ):
        with pytest.raises(AggregationError, match=f"invalid public key from {COLLUDER}"):
            case(scene)


def test_what_is_in_order_is_done(scene: Scene) -> None:
    """The same calls with nothing changed: it was the change that was refused."""
    scene.deal()
    scene.contribute()
    scene.resealed(2 * HONEST_SHARE)
    scene.confirm(*names(5))
    scene.confirm(*names(5)[:4])
    scene.confirm(*names(5), state=scene.confirmed.states[ME])
    scene.reveal()
    scene.reveal(**scene.signed(names(5)[:4]))
    for site in (OTHER, COLLUDER):
        scene.changed(site, commitment=FRESH)


def test_a_commitment_changed_for_one_site_alone_parts_it_from_the_others(scene: Scene) -> None:
    """Nobody signs for a cohort that they were not shown."""
    changed, _ = scene.changed(OTHER, commitment=FRESH)  # type: ignore[misc]
    changed, _ = secagg.confirm(changed, names(5), number=2, identity=identity_of(ME))
    with pytest.raises(AggregationError, match="did not sign"):
        secagg.reveal(changed, names(5), number=2, signatures=scene.signatures)


def test_a_site_is_known_as_long_as_it_is_pinned(scene: Scene) -> None:
    """Also one whose signature was checked for an exchange before."""
    site = scene.before
    for peers in (
        {**site.peers, OTHER: identity_of("made up").public},
        {name: key for name, key in site.peers.items() if name != OTHER},
    ):
        with pytest.raises(AggregationError) as refused:
            secagg.deal(site.states[ME], scene.roster, peers=peers, random=site.random)
        assert refused.value.rule == "peers"


def test_a_cohort_is_as_large_as_a_sum_at_least() -> None:
    """Where sums are larger than the threshold asks for."""
    sites = Sites(make_rules(5, threshold=3, min_survivors=4))
    roster = sites.roster()
    dealings = sites.deal(roster)
    vectors = draw_vectors(names(5), ring=RING, size=3)
    for count, refused in ((3, True), (4, False)):
        cohorts = forward(roster, {site: dealings[site] for site in names(count)})
        if refused:
            with pytest.raises(AggregationError, match="at least 4 sites"):
                sites.contribute(cohorts, vectors, ring=RING)
        else:
            sites.contribute(cohorts, vectors, ring=RING)


def test_secrets_are_forgotten_once_they_are_used(scene: Scene) -> None:
    """Of its own two, after masking, a site has a share of each; after revealing, nothing at all."""
    dealer = scene.dealt.states[ME].dealer
    held = scene.masked.states[ME].holder.held
    shares = {share for both in held.values() for share in (both.seed, both.key)}
    assert kept(scene.dealt.states[ME], {dealer.seed, dealer.key}) == {dealer.seed, dealer.key}
    assert kept(scene.masked.states[ME], {dealer.seed, dealer.key}) == set()
    assert kept(scene.masked.states[ME], shares) == shares
    assert kept(done(scene), shares) == set()


def kept(state: SiteState, secrets: set[bytes]) -> set[bytes]:
    """Which of these bytes are anywhere in a state."""
    return {secret for secret in secrets if repr(secret) in repr(state)}
