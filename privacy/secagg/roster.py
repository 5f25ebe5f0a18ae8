"""Who takes part in a sum under masks: the sites asked, and those whose secrets arrived.

Every list is in order of name, and every secret hangs on the digest of the list that it was made for: two
sites that were told of different lists cannot open what they sealed for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from privacy.errors import AggregationError, SignatureError
from privacy.identity import Identity, verify
from privacy.secagg.committee import Committee, everyone, make_committee
from privacy.secagg.graph import Graph, complete_graph, make_graph

SESSION_KEY_PURPOSE = "session key"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a run's manifest says of its sums.

    ``manifest`` is its digest, bytes[32]; at most ``cohort`` sites take part, ``threshold`` of them uncover
    a sum, which is of ``min_survivors`` sites or more; ``confirm`` is whether they sign whose it is
    first. Raises AggregationError for a threshold under which a coordinator that lies to each half
    would learn both secrets of a site, or a sum of one.
    """

    manifest: bytes
    cohort: int
    threshold: int
    min_survivors: int
    colluding: int = 0
    confirm: bool = True

    def __post_init__(self) -> None:
        if not (self.cohort + self.colluding) / 2 < self.threshold <= self.cohort:
            raise AggregationError(
                f"expected a threshold above {(self.cohort + self.colluding) / 2:g}, half of cohort="
                f"{self.cohort} and colluding={self.colluding} together, and at most cohort, got "
                f"threshold={self.threshold}",
                rule="threshold",
            )
        if not max(2, self.threshold, self.colluding + 2) <= self.min_survivors <= self.cohort:
            raise AggregationError(
                f"expected sums of at least threshold={self.threshold} sites, of two, and of two beside "
                f"colluding={self.colluding}, got {self.min_survivors} (federation.min_sites)",
                rule="cohort",
            )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A site in a run: its ``identity``, and its session's X25519 ``key``, signed: 32, 32 and 64 bytes."""

    site: str
    identity: bytes
    key: bytes
    signature: bytes

    @classmethod
    def sign(cls, site: str, key: bytes, *, identity: Identity, manifest: bytes) -> Member:
        """A member with its identity's signature under the session key, for one run."""
        content = _session_key(manifest, site, key)
        signature = identity.sign(SESSION_KEY_PURPOSE, content)
        return cls(site=site, identity=identity.public, key=key, signature=signature)

    def check(self, manifest: bytes, *, pinned: bytes | None) -> None:
        """Raises AggregationError unless the site that is ``pinned`` under this name signed the key."""
        self.check_pinned(pinned)
        check_signed(self, manifest)

    def check_pinned(self, pinned: bytes | None) -> None:
        """Raises AggregationError unless this is the identity that is pinned under the site's name."""
        if pinned is None:
            raise AggregationError(
                f"{self.site} is not known here; whoever invents sites can take their masks off",
                rule="peers",
            )
        if self.identity != pinned:
            raise AggregationError(
                f"{self.site} is known here by another identity: expected {pinned.hex()[:16]}…, got "
                f"{self.identity.hex()[:16]}…",
                rule="peers",
            )


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites among which secrets are dealt for one sum.

    ``number`` grows from one sum of a run to the next and is never used again. Raises AggregationError
    for sites that are not distinct and in order, too few, or more than the run has.
    """

    rules: Rules
    number: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        check_sites([member.site for member in self.members])
        if not self.rules.min_survivors <= len(self.members) <= self.rules.cohort:
            raise AggregationError(
                f"expected from {self.rules.min_survivors} to {self.rules.cohort} sites, "
                f"got {len(self.members)}",
                rule="cohort",
            )
        if len({member.identity for member in self.members}) != len(self.members):
            raise AggregationError("expected a different identity for each site", rule="peers")
        if self.number < 1:
            raise AggregationError(f"expected number >= 1, got number={self.number}", rule="replay")

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the run, the number, and each site with its keys, every part framed: 32 bytes."""
        rules = self.rules
        parts = [
            b"confide roster",
            rules.manifest,
            *map(_number, (self.number, rules.threshold, rules.min_survivors)),
        ]
        for member in self.members:
            parts += [member.site.encode(), member.identity, member.key]
        return _digest(parts)

    @cached_property
    def graph(self) -> Graph:
        """Who masks with whom: all with all, or at random among many."""
        size, rules = len(self.members), self.rules
        if not rules.confirm:
            # Who may tell each site of other survivors can cut a site off from the few that it masks with.
            return complete_graph(size, threshold=rules.threshold)
        return make_graph(
            size,
            threshold=rules.threshold,
            colluding=rules.colluding,
            cohort=rules.cohort,
            seed=self.digest,
        )

    @cached_property
    def committee(self) -> Committee:
        """Who signs whose sum it is: among many that mask with some, a few."""
        size, rules = len(self.members), self.rules
        if not self.graph.sparse:
            return everyone(size, threshold=rules.threshold)
        return make_committee(
            size,
            threshold=rules.threshold,
            colluding=rules.colluding,
            cohort=rules.cohort,
            seed=self.digest,
        )

    @cached_property
    def signers(self) -> frozenset[str]:
        """The names of the committee's sites."""
        return frozenset(self.members[place].site for place in self.committee.places)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Each site's place, from 0."""
        return {member.site: place for place, member in enumerate(self.members)}

    def member(self, site: str) -> Member:
        """One site's member. Raises AggregationError if it is none."""
        return self.members[self.place(site)]

    def neighbours(self, site: str) -> list[str]:
        """The sites that a site masks with, in order. Raises AggregationError if it is none itself."""
        return [self.members[other].site for other in self.graph.neighbours[self.place(site)]]

    def check_signatures(
        self,
        signatures: Mapping[str, bytes],
        *,
        among: Iterable[str],
        quorum: int,
        purpose: str,
        content: bytes,
    ) -> None:
        """Raises AggregationError unless ``quorum`` sites ``among`` these, and no other, signed this."""
        if not signatures.keys() <= set(among):
            raise AggregationError("expected signatures of survivors alone", rule="survivors")
        if len(signatures) < quorum:
            raise AggregationError(
                f"expected {quorum} survivors' signatures, got {len(signatures)}", rule="survivors"
            )
        for site, signature in signatures.items():
            try:
                _check_signature(self.member(site).identity, purpose, content, signature)
            except SignatureError as error:
                raise AggregationError(
                    f"{site} did not sign this list of survivors of this sum", rule="survivors"
                ) from error

    def place(self, site: str) -> int:
        """A site's place. Raises AggregationError if it has none."""
        if site not in self.places:
            raise AggregationError(f"{site} is not among the sites of this sum", rule="cohort")
        return self.places[site]


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What a site deals for one sum.

    ``key`` is its X25519 public key for this sum alone, ``commitment`` a digest of its self-mask's seed;
    ``sealed`` has, for each neighbour in order of place, its shares of both secrets.
    """

    site: str
    key: bytes
    commitment: bytes
    sealed: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """One site's dealing, as one recipient gets it: ``sealed`` is empty for those who hold no share."""

    site: str
    key: bytes
    commitment: bytes
    sealed: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The sites whose dealings arrived: they mask with one another. Raises AggregationError as Roster.

    ``asked`` is a digest of what each of them is asked to contribute. Each site makes it from its own
    request: sites that were asked for different things, on other adapters or other grids, are of
    different cohorts, whose masks do not cancel out. A coordinator could otherwise ask all but one for
    nothing, and read that one in the sum (Pasquini, Francati and Ateniese 2022, arXiv:2111.07380).
    """

    dealt: tuple[Dealt, ...]
    asked: bytes = b""

    def __post_init__(self) -> None:
        check_sites(self.sites)
        if len({dealt.key for dealt in self.dealt}) != len(self.dealt):
            raise AggregationError("expected a different key for each site", rule="key")

    @property
    def sites(self) -> list[str]:
        return [dealt.site for dealt in self.dealt]

    def of(self, site: str) -> Dealt:
        """One site's part. Raises AggregationError if it has none."""
        if site not in self._by_site:
            raise AggregationError(f"{site} is not in the cohort", rule="cohort")
        return self._by_site[site]

    @cached_property
    def _by_site(self) -> Mapping[str, Dealt]:
        return {dealt.site: dealt for dealt in self.dealt}

    def digest(self, roster: Roster) -> bytes:
        """SHA-256 over the roster, what is asked, and each site's dealing, the same for all: 32 bytes."""
        parts = [b"confide cohort", roster.digest, self.asked]
        for dealt in self.dealt:
            parts += [dealt.site.encode(), dealt.key, dealt.commitment]
        return _digest(parts)


def survivors_digest(cohort: bytes, survivors: Sequence[str]) -> bytes:
    """What survivors sign, under the digest of their cohort: whose sum is uncovered. 32 bytes."""
    return _digest([b"confide survivors", cohort, *(site.encode() for site in survivors)])


def check_sites(sites: Sequence[str]) -> None:
    """Raises AggregationError unless names are distinct and in order."""
    if list(sites) != sorted(set(sites)):
        raise AggregationError("expected distinct sites in order of name", rule="cohort")


@lru_cache(maxsize=1 << 14)
def check_signed(member: Member, manifest: bytes) -> None:
    """Raises AggregationError unless a member signed its session key. Whoever did is not verified again.

    Verifying costs more than all else in a list of sites, and lists of one run have the same members.
    """
    content = _session_key(manifest, member.site, member.key)
    try:
        verify(member.identity, SESSION_KEY_PURPOSE, content, member.signature)
    except SignatureError as error:
        raise AggregationError(
            f"{member.site} did not sign its session key for this run", rule="key"
        ) from error


@lru_cache(maxsize=1 << 14)
def _check_signature(identity: bytes, purpose: str, content: bytes, signature: bytes) -> None:
    """Raises SignatureError unless it is. Simulated sites are all shown the same ones."""
    verify(identity, purpose, content, signature)


def _session_key(manifest: bytes, site: str, key: bytes) -> bytes:
    return _digest([b"confide session", manifest, site.encode(), key])


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _digest(parts: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(_number(len(part)) + part for part in parts)).digest()
