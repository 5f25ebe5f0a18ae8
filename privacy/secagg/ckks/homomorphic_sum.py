"""A site's part in sums of ciphertexts that are opened only together: pure steps from state to state.

All sites of a run share one secret key (``shared_key``). Each sum has four steps. *Deal*: one site gives
the key to those that have none. *Contribute*: a site signs its ciphertexts, once a number. *Confirm*: it
signs one list of who has answered, with SHA-256 of each one's ciphertexts. *Open*: one site is given all
ciphertexts of the list that it confirmed, with their sites' signatures, and those of ``threshold``
survivors under the list; it adds them up and opens the sum.

So a number has one list that ``threshold`` sites signed, more than half of all, and one sum is opened: two
of them would differ by single updates. Each ciphertext in it was signed by its site for this very sum, so
that none is replaced by ciphertexts of the coordinator's. A caller makes the state that comes back durable
before what comes with it leaves.

This holds against a coordinator alone. Any site that works with it has the key, and with it every update.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privacy.errors import AggregationError, LostError, SignatureError
from privacy.identity import Identity, verify
from privacy.secagg.ckks.ciphertexts import Parameters, key_context
from privacy.secagg.ckks.homomorphic import encrypt, make_key, open_sum
from privacy.secagg.ckks.shared_key import commitment_to_key, deal_key, open_key
from privacy.secagg.masks.site_steps import SiteState, advertise, begin, check_roster
from privacy.secagg.roster import (
    Cohort,
    Dealing,
    Dealt,
    Member,
    Roster,
    Rules,
    check_sites,
    survivors_digest,
)
from privacy.secagg.shamir import Random

CIPHERTEXT_PURPOSE = "ciphertext"
LIST_PURPOSE = "ciphertexts of a sum"


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One site's ciphertexts, and its identity's signature under their digest: 64 bytes."""

    site: str
    content: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Contributed:
    """A sum that was contributed to. ``digest`` is over its roster and key; ``own`` over the ciphertexts.

    ``confirmed`` is the digest of the list that was signed here.
    """

    roster: Roster
    digest: bytes
    own: bytes
    confirmed: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """What a site keeps secret of a run: its session, as under masks, and the shared key once it has it."""

    session: SiteState
    key: bytes = b""
    sum: Contributed | None = None

    @property
    def site(self) -> str:
        return self.session.site

    @property
    def manifest(self) -> bytes:
        return self.session.manifest


def begin_session(
    site: str, manifest: bytes, *, identity: Identity, random: Random
) -> tuple[KeyState, Member]:
    """A session of a run: its state, and what others are told of it."""
    session, member = begin(site, manifest, identity=identity, random=random)
    return KeyState(session=session), member


def advertise_session(state: KeyState, *, identity: Identity) -> Member:
    """What others are told of a session: its public key, signed."""
    return advertise(state.session, identity=identity)


def sum_parameters(rules: Rules) -> Parameters:
    """What follows for ciphertexts from how many sites there are."""
    return Parameters(sites=rules.cohort)


def deal(
    state: KeyState, roster: Roster, *, peers: Mapping[str, bytes], random: Random
) -> tuple[KeyState, Dealing]:
    """Seal the shared key for all others; it is made if this site has none.

    Raises AggregationError for a roster of another run, of a sum that is over, without this site, or with
    a site that is not known or did not sign; UserError without TenSEAL.
    """
    check_roster(state.session, roster, peers, signed=roster.members)
    key = state.key or make_key(sum_parameters(roster.rules))
    return replace(state, key=key), deal_key(state.session, roster, key, random=random)


def take_key(state: KeyState, roster: Roster, dealt: Dealt, *, peers: Mapping[str, bytes]) -> KeyState:
    """The state with the key that a sum is under, if a contribution to it would be in order.

    Raises what ``deal`` raises for a roster, LostError if the key is neither here nor sealed for this site,
    and ProtocolError for one that is no key.
    """
    check_roster(state.session, roster, peers, signed=roster.members)
    if state.key and commitment_to_key(state.key, state.manifest) == dealt.commitment:
        return state
    if not dealt.sealed:
        raise LostError("this site does not have the key that the sum is under: it joins again")
    key = open_key(state.session, roster, dealt)
    key_context(key, sum_parameters(roster.rules))
    return replace(state, key=key)


def contribute(
    state: KeyState,
    roster: Roster,
    dealt: Dealt,
    update: NDArray[np.floating],
    *,
    asked: bytes,
    reach: float,
    peers: Mapping[str, bytes],
    identity: Identity,
) -> tuple[KeyState, Contribution]:
    """Encrypt and sign an update, float[d], once a number, with a digest of what was ``asked`` for.

    Raises as ``take_key`` and ``encrypt`` do.
    """
    state = take_key(state, roster, dealt, peers=peers)
    content = encrypt(state.key, update, parameters=sum_parameters(roster.rules), reach=reach)
    whole, own = sum_digest(roster, dealt, asked=asked), content_digest(content)
    signature = identity.sign(CIPHERTEXT_PURPOSE, list_digest(whole, {state.site: own}))
    session = replace(state.session, last=roster.number)
    contributed = Contributed(roster=roster, digest=whole, own=own)
    contribution = Contribution(site=state.site, content=content, signature=signature)
    return replace(state, session=session, sum=contributed), contribution


def check_contribution(contribution: Contribution, roster: Roster, digest: bytes) -> None:
    """Raises AggregationError unless the site signed these ciphertexts for the sum of this ``digest``."""
    identity = roster.member(contribution.site).identity
    content = list_digest(digest, {contribution.site: content_digest(contribution.content)})
    try:
        verify(identity, CIPHERTEXT_PURPOSE, content, contribution.signature)
    except SignatureError as error:
        raise AggregationError(
            f"{contribution.site} did not sign these ciphertexts for this sum", rule="ciphertext"
        ) from error


def confirm(
    state: KeyState, digests: Mapping[str, bytes], *, number: int, identity: Identity
) -> tuple[KeyState, bytes]:
    """Sign a list of who has answered what, SHA-256 of their ciphertexts by site: 64 bytes.

    The same list may be signed again. Raises AggregationError for another than was signed before, for too
    few, for strangers, and for one without this site's own ciphertexts; LostError.
    """
    contributed = _contributed(state, number)
    roster = contributed.roster
    for site in digests:
        roster.place(site)
    if len(digests) < roster.rules.min_survivors:
        raise AggregationError(
            f"expected a sum of at least {roster.rules.min_survivors} sites, got {len(digests)}",
            rule="survivors",
        )
    if digests.get(state.site) != contributed.own:
        raise AggregationError(
            "expected this site's own ciphertexts in the list, as it sent them", rule="survivors"
        )
    content = list_digest(contributed.digest, digests)
    if contributed.confirmed not in (None, content):
        raise AggregationError(
            "another list was confirmed in this sum before: two sums would differ by single updates",
            rule="survivors",
        )
    signature = identity.sign(LIST_PURPOSE, content)
    return replace(state, sum=replace(contributed, confirmed=content)), signature


def open_contributions(
    state: KeyState,
    contributions: Sequence[Contribution],
    *,
    number: int,
    signatures: Mapping[str, bytes],
    size: int,
    reach: float,
) -> tuple[KeyState, NDArray[np.float32]]:
    """Open the sum of the list that was confirmed here, once: float32[size].

    ``signatures`` are the survivors' under the list. Raises AggregationError for other ciphertexts than
    are on it, or not enough signatures; LostError if there is nothing to open, or not any more; and what
    ``open_sum`` raises.
    """
    contributed = _contributed(state, number)
    roster = contributed.roster
    check_sites([one.site for one in contributions])
    content = list_digest(
        contributed.digest, {one.site: content_digest(one.content) for one in contributions}
    )
    if contributed.confirmed != content:
        raise AggregationError(
            "these ciphertexts are not the list that was confirmed here", rule="survivors"
        )
    for one in contributions:
        check_contribution(one, roster, contributed.digest)
    roster.check_signatures(
        signatures,
        among=[one.site for one in contributions],
        quorum=roster.rules.threshold,
        purpose=LIST_PURPOSE,
        content=content,
    )
    opened = open_sum(
        state.key,
        [one.content for one in contributions],
        parameters=sum_parameters(roster.rules),
        size=size,
        reach=reach,
        min_survivors=roster.rules.min_survivors,
    )
    return replace(state, sum=None), opened


def sum_digest(roster: Roster, dealt: Dealt, *, asked: bytes) -> bytes:
    """What a sum is known by: its roster, which has its number, its key, and what is asked. 32 bytes."""
    return Cohort(dealt=(dealt,), asked=asked).digest(roster)


def content_digest(content: bytes) -> bytes:
    """SHA-256 of one site's ciphertexts: 32 bytes."""
    return hashlib.sha256(content).digest()


def list_digest(digest: bytes, digests: Mapping[str, bytes]) -> bytes:
    """What is signed of ciphertexts in the sum of this ``digest``: 32 bytes."""
    return survivors_digest(digest, [f"{digests[site].hex()} {site}" for site in sorted(digests)])


def _contributed(state: KeyState, number: int) -> Contributed:
    if state.sum is None or state.sum.roster.number != number:
        raise LostError(f"nothing is left to confirm or to open here of sum {number}")
    return state.sum
