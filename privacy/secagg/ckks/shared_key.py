"""The secret key of homomorphic sums, on its way from the site that made it to the others of a run.

It is sealed once, under a key drawn for that, and the latter for each other site of a list under what two
sites' session keys agree on. A coordinator hands both on and reads neither. In ``Dealing.sealed`` the
sealed key comes first, then what opens it, for each other member in order; in ``Dealt.sealed`` one site's
opener follows the sealed key. ``key`` is a salt of 32 bytes, so that no key ever seals twice.

Whoever has the key reads every update that it gets hold of: the sites give it to sites that they know.
"""

from __future__ import annotations

from privacy.errors import AggregationError
from privacy.secagg.masks.site_steps import SiteState
from privacy.secagg.roster import Dealing, Dealt, Roster
from privacy.secagg.sealing import KEY_BYTES, TAG_BYTES, AgreementKey, derive, open_sealed, seal
from privacy.secagg.shamir import Random

# TenSEAL's context with a secret key takes 46 kB: a polynomial of 64-bit words, compressed.
KEY_MAX = 2**17

_OPENER = KEY_BYTES + TAG_BYTES


def commitment_to_key(key: bytes, manifest: bytes) -> bytes:
    """What a run's shared key is known again by, and not found from: 32 bytes."""
    return derive(key, b"shared key commitment", manifest)


def deal_key(session: SiteState, roster: Roster, key: bytes, *, random: Random) -> Dealing:
    """Seal a shared key for all others in a roster, which the caller has checked.

    Raises AggregationError for a member whose session key is none.
    """
    once, salt, own = random(KEY_BYTES), random(KEY_BYTES), AgreementKey(session.key)
    openers = [
        seal(_sealing_key(own.agree(member.key), roster, session.site, member.site, salt), once)
        for member in roster.members
        if member.site != session.site
    ]
    return Dealing(
        site=session.site,
        key=salt,
        commitment=commitment_to_key(key, roster.rules.manifest),
        sealed=(seal(_content_key(once, roster), key), *openers),
    )


def check_key_dealing(roster: Roster, dealing: Dealing) -> None:
    """Raises AggregationError unless a dealing has as many parts as there are members, of their sizes."""
    roster.place(dealing.site)
    sizes = [len(sealed) for sealed in dealing.sealed[1:]]
    if len(dealing.sealed) != len(roster.members) or sizes != [_OPENER] * len(sizes):
        raise AggregationError(
            f"expected a key sealed for {len(roster.members) - 1} sites from {dealing.site}, got "
            f"{len(sizes)} parts of {sorted(set(sizes))} bytes",
            rule="sealed",
        )


def forward_key(roster: Roster, dealing: Dealing, site: str) -> Dealt:
    """What one other site gets of a dealing that was checked."""
    others = [member.site for member in roster.members if member.site != dealing.site]
    content, *openers = dealing.sealed
    return told_of_key(dealing, sealed=content + openers[others.index(site)])


def told_of_key(dealing: Dealing, *, sealed: bytes = b"") -> Dealt:
    """What a site gets that has the key already: which one it is."""
    return Dealt(site=dealing.site, key=dealing.key, commitment=dealing.commitment, sealed=sealed)


def open_key(session: SiteState, roster: Roster, dealt: Dealt) -> bytes:
    """The shared key, sealed for this site by another of the roster, which the caller has checked.

    Raises AggregationError for what was sealed by, for or among others, and for another key than is said.
    """
    member = roster.member(dealt.site)
    content, opener = dealt.sealed[:-_OPENER], dealt.sealed[-_OPENER:]
    secret = AgreementKey(session.key).agree(member.key)
    sealing = _sealing_key(secret, roster, dealt.site, session.site, dealt.key)
    once = open_sealed(sealing, opener, sender=dealt.site)
    key = open_sealed(_content_key(once, roster), content, sender=dealt.site)
    if commitment_to_key(key, roster.rules.manifest) != dealt.commitment:
        raise AggregationError(f"{dealt.site} sealed another key than it says", rule="key")
    return key


def _sealing_key(secret: bytes, roster: Roster, sender: str, receiver: str, salt: bytes) -> bytes:
    return derive(secret, b"shared key", roster.digest, sender.encode(), receiver.encode(), salt)


def _content_key(once: bytes, roster: Roster) -> bytes:
    return derive(once, b"shared key content", roster.digest)
