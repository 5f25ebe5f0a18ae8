"""Sums under masks as they travel: what a manifest says of them, and messages to values and back."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from functools import lru_cache

from privacy.errors import AggregationError, JobError
from privacy.secagg.ring import Ring
from privacy.secagg.roster import Cohort, Dealing, Dealt, Member, Roster, Rules
from privacy.secagg.sealing import KEY_BYTES, TAG_BYTES
from privacy.secagg.shamir import SHARE_BYTES
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.sized import SIGNATURE_BYTES, sized

# A count of right answers, and of examples: two words. The counts of statistics: a word a bin.
METRICS_RING = Ring(64)
# Bytes of a vector that is kept to be known again: of a larger one a second copy would be felt.
_MOST_KEPT = 1 << 22
# What a site seals for each neighbour: shares of its two secrets.
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


def make_rules(manifest: Manifest) -> Rules:
    """What a manifest says of its sums. Raises AggregationError where they would not be safe."""
    aggregation = manifest.job.aggregation
    return Rules(
        manifest=manifest.digest,
        cohort=manifest.cohort,
        threshold=manifest.threshold,
        min_survivors=manifest.min_survivors,
        colluding=aggregation.colluding,
        confirm=aggregation.confirm,
    )


def check_threshold(manifest: Manifest, *, how: str, otherwise: str = "") -> None:
    """Raises JobError unless a round has the sites that it takes to uncover its sum.

    ``how`` says in which kind of sum, ``otherwise`` what else would help than more sites.
    """
    cohort, threshold, min_survivors = manifest.cohort, manifest.threshold, manifest.min_survivors
    if cohort < 2:
        raise JobError(
            f'aggregation.kind="{manifest.job.aggregation.kind}": expected two sites or more, got one, '
            'whose sum is its own update; set aggregation.kind="none"'
        )
    if threshold > cohort:
        raise JobError(f"aggregation.threshold={threshold}: expected at most {cohort}, the number of sites")
    if min_survivors < threshold:
        raise JobError(
            f"federation.min_sites={min_survivors}: {how} a round needs aggregation.threshold={threshold} "
            f"of {cohort} sites; raise min_sites{otherwise}"
        )


def check_rules(manifest: Manifest) -> None:
    """Raises JobError where ``make_rules`` finds that sums would not be safe."""
    try:
        make_rules(manifest)
    except AggregationError as error:
        raise JobError(f"[aggregation] {error}") from error


def read_joined(site: str, joined: pb.Joined, manifest: Manifest) -> Member:
    """The member that a site is in this run. Raises AggregationError unless it signed its session key."""
    member = Member(
        site=site,
        identity=joined.public_key,
        # With a key of another size the others would refuse every list that the site is in.
        key=sized(joined.session_key, KEY_BYTES, f"the session key of {site}"),
        signature=joined.session_signature,
    )
    member.check(manifest.digest, pinned=joined.public_key)
    return member


def write_member(member: Member) -> pb.Member:
    """A member as it travels."""
    return pb.Member(site=member.site, identity=member.identity, key=member.key, signature=member.signature)


def write_roster(roster: Roster) -> pb.Roster:
    """A roster as it travels: the rules stay with the manifest."""
    return pb.Roster(number=roster.number, members=map(write_member, roster.members))


def read_roster(message: pb.Roster, rules: Rules) -> Roster:
    """Raises AggregationError for what is no roster under these rules."""
    if len(message.members) > rules.cohort:
        raise AggregationError(
            f"expected at most {rules.cohort} sites, got {len(message.members)}", rule="cohort"
        )
    return _read_roster(message.SerializeToString(), rules)


@lru_cache(maxsize=2)
def _read_roster(content: bytes, rules: Rules) -> Roster:
    """Simulated sites are all shown the same list: it is read, and its graph made, once."""
    message = pb.Roster.FromString(content)
    members = tuple(
        Member(
            site=member.site,
            identity=sized(member.identity, KEY_BYTES, "an identity"),
            key=sized(member.key, KEY_BYTES, "a session key"),
            signature=sized(member.signature, SIGNATURE_BYTES, "a signature"),
        )
        for member in message.members
    )
    return Roster(rules=rules, number=message.number, members=members)


def write_dealing(dealing: Dealing) -> pb.Dealing:
    """A dealing as it travels; the reply that it is in names its site."""
    return pb.Dealing(key=dealing.key, commitment=dealing.commitment, sealed=dealing.sealed)


def read_dealing(site: str, message: pb.Dealing) -> Dealing:
    """Raises AggregationError for shares or keys of another size."""
    return Dealing(
        site=site,
        key=sized(message.key, KEY_BYTES, f"the key of {site}"),
        commitment=sized(message.commitment, KEY_BYTES, f"the commitment of {site}"),
        sealed=tuple(sized(one, SEALED_BYTES, f"the shares of {site}") for one in message.sealed),
    )


def write_cohort(cohort: Cohort, *, number: int) -> pb.Cohort:
    """A cohort as it travels, with the number of its sum."""
    dealt = [
        pb.Dealt(site=one.site, key=one.key, commitment=one.commitment, sealed=one.sealed)
        for one in cohort.dealt
    ]
    return pb.Cohort(number=number, dealt=dealt)


class _LastDigest:
    """SHA-256 of a content: of the one that was asked for last it is known, where that is short.

    Simulated sites are all asked to train one adapter, and to compare it takes a fortieth of hashing it.
    """

    def __init__(self) -> None:
        self._last = b"", hashlib.sha256().digest()

    def __call__(self, content: bytes) -> bytes:
        known, digest = self._last
        if content == known:
            return digest
        digest = hashlib.sha256(content).digest()
        if len(content) <= _MOST_KEPT:
            self._last = content, digest
        return digest


_adapter_digest, _beside_digest = _LastDigest(), _LastDigest()


def asked_to_train(request: pb.Train) -> bytes:
    """A digest of all in a request that an update depends on, 32 bytes.

    That is its round, its adapter, what is sent beside that, and its grid.
    """
    adapter, beside = _adapter_digest(request.adapter), _beside_digest(request.beside)
    what = struct.pack("<Qd", request.round, request.noise_std)
    return hashlib.sha256(b"confide train\0" + what + adapter + beside).digest()


def asked_to_evaluate(request: pb.Evaluate) -> bytes:
    """The same for metrics. 32 bytes."""
    return hashlib.sha256(b"confide evaluate\0" + _adapter_digest(request.adapter)).digest()


def asked_to_count(manifest: Manifest) -> bytes:
    """The same for statistics, of which a run has one sum. 32 bytes."""
    return hashlib.sha256(b"confide statistics\0" + manifest.digest).digest()


def read_cohort(message: pb.Cohort, rules: Rules, *, asked: bytes) -> Cohort:
    """A cohort that contributes what is ``asked``, as this site was asked for it.

    Raises AggregationError for what is no cohort under these rules.
    """
    if len(message.dealt) > rules.cohort:
        raise AggregationError(
            f"expected at most {rules.cohort} sites, got {len(message.dealt)}", rule="cohort"
        )
    return Cohort(
        dealt=tuple(
            Dealt(
                site=one.site,
                key=sized(one.key, KEY_BYTES, f"the key of {one.site}"),
                commitment=sized(one.commitment, KEY_BYTES, f"the commitment of {one.site}"),
                sealed=sized(one.sealed, SEALED_BYTES, f"the shares of {one.site}") if one.sealed else b"",
            )
            for one in message.dealt
        ),
        asked=asked,
    )


def read_signatures(message: pb.Unmask | pb.Open) -> dict[str, bytes]:
    """Signatures by site. Raises AggregationError for two of one site."""
    signatures = {
        one.site: sized(one.signature, SIGNATURE_BYTES, f"the signature of {one.site}")
        for one in message.signatures
    }
    if len(signatures) != len(message.signatures):
        raise AggregationError("expected one signature a site", rule="survivors")
    return signatures


def write_shares(shares: Mapping[str, bytes], roster: Roster) -> pb.Unmasked:
    """Shares as they travel, by the place of the site that they are of."""
    return pb.Unmasked(
        shares=[pb.Share(place=roster.place(site), share=share) for site, share in shares.items()]
    )


def read_shares(message: pb.Unmasked, roster: Roster) -> dict[str, bytes]:
    """Shares by whose they are. Raises AggregationError for places that there are not, or twice."""
    found: dict[str, bytes] = {}
    for one in message.shares:
        if one.place >= len(roster.members) or roster.members[one.place].site in found:
            raise AggregationError(f"expected one share a place, got place={one.place}", rule="share")
        found[roster.members[one.place].site] = sized(one.share, SHARE_BYTES, "a share")
    return found
