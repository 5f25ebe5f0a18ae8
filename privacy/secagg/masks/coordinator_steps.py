"""The coordinator's part in sums under masks: hand secrets on, add up, take the masks off the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from privacy.errors import AggregationError
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.masks.site_steps import commitment_to, pair_mask_key, self_mask_key
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Dealt, Roster
from privacy.secagg.sealing import AgreementKey
from privacy.secagg.shamir import Combiner, is_share


def check_dealing(roster: Roster, dealing: Dealing) -> None:
    """Raises AggregationError unless a dealing has something for each neighbour."""
    expected = len(roster.graph.neighbours[roster.place(dealing.site)])
    if len(dealing.sealed) != expected:
        raise AggregationError(
            f"expected shares for {expected} neighbours of {dealing.site}, got {len(dealing.sealed)}",
            rule="share",
        )


def forward(roster: Roster, dealings: Mapping[str, Dealing], *, asked: bytes = b"") -> dict[str, Cohort]:
    """Each site's cohort: what every site whose dealing arrived dealt, with the shares for this site.

    ``asked`` is the digest of what all of them are asked to contribute.
    """
    for dealing in dealings.values():
        check_dealing(roster, dealing)
    sealed: dict[str, dict[str, bytes]] = {site: {} for site in dealings}
    for site, dealing in dealings.items():
        for other, content in zip(roster.neighbours(site), dealing.sealed, strict=True):
            sealed.get(other, {})[site] = content
    ordered = [dealings[site] for site in sorted(dealings)]
    return {
        receiver: Cohort(
            dealt=tuple(
                Dealt(site=d.site, key=d.key, commitment=d.commitment, sealed=shares.get(d.site, b""))
                for d in ordered
            ),
            asked=asked,
        )
        for receiver, shares in sealed.items()
    }


def add_up(vectors: Iterable[Words], *, ring: Ring, size: int) -> Words:
    """The sum of vectors of ``size`` words in the ring."""
    total = np.zeros(size, ring.dtype)
    for words in vectors:
        total += words
    return ring.reduced(total)


def unmask(
    total: Words,
    *,
    ring: Ring,
    roster: Roster,
    cohort: Cohort,
    survivors: Sequence[str],
    shares: Mapping[str, Mapping[str, bytes]],
) -> Words:
    """The survivors' sum, from that of their masked vectors: the masks left in it are taken off.

    ``cohort`` may be any recipient's; ``shares`` are, by who revealed them, by whose they are. Secrets are
    checked against what their sites published; where one holder's share is wrong and others are left over,
    it is done without. Raises AggregationError, naming the site whose secret cannot be had.
    """
    recover, digest = _Recovery(roster, cohort, shares), cohort.digest(roster)
    alive = set(survivors)
    add: list[bytes] = []
    subtract = [self_mask_key(recover.seed(site), digest, site) for site in cohort.sites if site in alive]
    for site in cohort.sites:
        if site in alive:
            continue
        pair, own = AgreementKey(recover.key(site)), cohort.of(site)
        for other in roster.neighbours(site):
            if other in alive:
                mask = pair_mask_key(pair, digest, own=own, other=cohort.of(other))
                # The survivor added it if its name comes first.
                (subtract if other < site else add).append(mask)
    return apply_masks(total, ring=ring, add=add, subtract=subtract)


class _Recovery:
    """Sites' secrets, from shares."""

    def __init__(self, roster: Roster, cohort: Cohort, shares: Mapping[str, Mapping[str, bytes]]) -> None:
        self._roster = roster
        self._published = {dealt.site: dealt for dealt in cohort.dealt}
        self._shares = shares
        self._combiner = lru_cache(maxsize=256)(Combiner)

    def seed(self, site: str) -> bytes:
        commitment = self._published[site].commitment
        return self._secret(site, lambda seed: commitment_to(seed, self._roster) == commitment)

    def key(self, site: str) -> bytes:
        public = self._published[site].key
        return self._secret(site, lambda key: AgreementKey(key).public == public)

    def _secret(self, site: str, fits: Callable[[bytes], bool]) -> bytes:
        roster, needed = self._roster, self._roster.graph.threshold
        found = {
            place + 1: self._shares[holder][site]
            for place in roster.graph.holders(roster.place(site))
            if is_share(self._shares.get(holder := roster.members[place].site, {}).get(site, b""))
        }
        if len(found) < needed:
            raise AggregationError(
                f"expected {needed} shares of a secret of {site}, got {len(found)}", rule="share"
            )
        points = tuple(found)
        for chosen in _choices(points, needed):
            secret = self._combiner(chosen).combine([found[point] for point in chosen])
            if fits(secret):
                return secret
        raise AggregationError(
            f"the shares of a secret of {site} do not give what it published: it dealt wrong ones, or "
            "those who revealed them changed them",
            rule="share",
        )


def _choices(points: tuple[int, ...], needed: int) -> Iterator[tuple[int, ...]]:
    """The first points as many as are needed, or any of one more but one: then that one lied."""
    yield points[:needed]
    if len(points) > needed:
        more = points[: needed + 1]
        yield from (more[:place] + more[place + 1 :] for place in range(needed + 1))
