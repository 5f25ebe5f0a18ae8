"""Exchanges under masks for tests: sites as pure states, and what a coordinator can work out from them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import chi2

from privacy.identity import Identity
from privacy.secagg.masks import site_steps as secagg
from privacy.secagg.masks.coordinator_steps import forward
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.masks.site_steps import (
    SURVIVORS_PURPOSE,
    Dealer,
    Held,
    SiteState,
    pair_mask_key,
    self_mask_key,
)
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Member, Roster, Rules, survivors_digest
from privacy.secagg.sealing import AgreementKey
from privacy.secagg.shamir import PRIME, Combiner

MANIFEST = bytes(range(32))
# All statistics here have fixed seeds; this is how often a right one would fail for a seed drawn anew.
FALSE_ALARM = 1e-9

Revealed = Mapping[str, Mapping[str, bytes]]


def stream(seed: object) -> secagg.Random:
    """A source of bytes that a seed fixes."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed} {count}".encode()).digest(size)

    return draw


def contribute(
    state: SiteState, cohort: Cohort, words: Words, *, number: int, ring: Ring
) -> tuple[SiteState, Words]:
    """A site's vector under its masks, and the state after it."""
    ready = secagg.prepare(state, cohort, number=number)
    return ready.state, ready.mask(words, ring=ring)


def names(count: int) -> list[str]:
    return [f"site-{place:02d}" for place in range(count)]


@cache
def identity_of(site: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest()))


@cache
def peers_of(count: int) -> dict[str, bytes]:
    return {site: identity_of(site).public for site in names(count)}


def usual_threshold(count: int) -> int:
    return 2 * count // 3 + 1


def make_rules(count: int, *, threshold: int = 0, min_survivors: int = 0, **others: object) -> Rules:
    threshold = threshold or usual_threshold(count)
    return Rules(
        manifest=MANIFEST,
        cohort=count,
        threshold=threshold,
        min_survivors=min_survivors or max(threshold, 2),
        **others,  # type: ignore[arg-type]
    )


def draw_vectors(sites: Iterable[str], *, ring: Ring, size: int, seed: int = 0) -> dict[str, Words]:
    """A uniform vector for each site."""
    rng = np.random.default_rng(seed)
    return {
        site: ring.reduced(rng.integers(0, 1 << 64, size, np.uint64).astype(ring.dtype)) for site in sites
    }


class Sites:
    """The sites of one run, by name. A copy goes its own way."""

    def __init__(self, rules: Rules, *, seed: object = 0) -> None:
        self.rules = rules
        self.random = stream(seed)
        self.peers = peers_of(rules.cohort)
        self.states: dict[str, SiteState] = {}
        # What a site that works with the coordinator keeps of what it should forget.
        self.kept: dict[str, Dealer] = {}
        self.members: dict[str, Member] = {}
        for site in self.peers:
            self.join(site)

    def __copy__(self) -> Sites:
        other = object.__new__(Sites)
        other.__dict__ |= self.__dict__ | {
            name: dict(getattr(self, name)) for name in ("states", "members", "kept")
        }
        return other

    def join(self, site: str) -> None:
        self.states[site], self.members[site] = secagg.begin(
            site, MANIFEST, identity=identity_of(site), random=self.random
        )

    def roster(self, number: int = 1, sites: Iterable[str] | None = None) -> Roster:
        members = tuple(self.members[site] for site in sorted(self.peers if sites is None else sites))
        return Roster(rules=self.rules, number=number, members=members)

    def deal(self, roster: Roster, sites: Iterable[str] | None = None) -> dict[str, Dealing]:
        dealings = {}
        for site in sorted(roster.places if sites is None else sites):
            self.states[site], dealings[site] = secagg.deal(
                self.states[site], roster, peers=self.peers, random=self.random
            )
            dealer = self.states[site].dealer
            if dealer is not None:
                self.kept[site] = dealer
        return dealings

    def contribute(
        self, cohorts: Mapping[str, Cohort], vectors: Mapping[str, Words], *, ring: Ring, number: int = 1
    ) -> dict[str, Words]:
        masked = {}
        for site, cohort in cohorts.items():
            self.states[site], masked[site] = contribute(
                self.states[site], cohort, vectors[site], number=number, ring=ring
            )
        return masked

    def confirm(
        self, survivors: Sequence[str], sites: Iterable[str] | None = None, *, number: int = 1
    ) -> dict[str, bytes]:
        signatures = {}
        for site in survivors if sites is None else sites:
            self.states[site], signatures[site] = secagg.confirm(
                self.states[site], survivors, number=number, identity=identity_of(site)
            )
        return signatures

    def reveal(
        self,
        survivors: Sequence[str],
        signatures: Mapping[str, bytes],
        sites: Iterable[str] | None = None,
        *,
        number: int = 1,
    ) -> dict[str, dict[str, bytes]]:
        revealed = {}
        for site in survivors if sites is None else sites:
            self.states[site], revealed[site] = secagg.reveal(
                self.states[site], survivors, number=number, signatures=signatures
            )
        return revealed


def contributed(
    rules: Rules, *, ring: Ring, vectors: Mapping[str, Words], seed: object = 0
) -> tuple[Sites, Roster, dict[str, Cohort], dict[str, Words]]:
    """All sites of a run, after all have masked their vectors in the first exchange."""
    sites = Sites(rules, seed=seed)
    roster = sites.roster()
    cohorts = forward(roster, sites.deal(roster))
    return sites, roster, cohorts, sites.contribute(cohorts, vectors, ring=ring)


def forge_signature(site: str, cohort: bytes, survivors: Sequence[str]) -> bytes:
    """What a site that works with the coordinator signs: anything."""
    return identity_of(site).sign(SURVIVORS_PURPOSE, survivors_digest(cohort, survivors))


class Adversary:
    """A coordinator that keeps every message, and ``colluders`` that give it their whole states.

    It learns shares by site and point, and takes off a masked vector all that it can work out.
    """

    def __init__(self, roster: Roster, colluders: Iterable[str] = ()) -> None:
        self.roster = roster
        self.colluders = set(colluders)
        self._known: dict[str, Dealer] = {}
        self._seeds: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._keys: dict[str, dict[int, bytes]] = defaultdict(dict)

    def learn_sites(self, sites: Sites) -> None:
        """All that colluding sites hold after they have masked, and their own secrets that they kept."""
        for site in self.colluders:
            self._known[site] = sites.kept[site]
            holder = sites.states[site].holder
            if holder is not None:
                self.learn_held(site, holder.held)

    def learn_held(self, holder: str, held: Mapping[str, Held]) -> None:
        point = self.roster.place(holder) + 1
        for site, both in held.items():
            self._seeds[site][point] = both.seed
            self._keys[site][point] = both.key

    def learn_revealed(self, survivors: Iterable[str], revealed: Revealed) -> None:
        """What sites answered that were told of these survivors."""
        alive = set(survivors)
        for holder, shares in revealed.items():
            point = self.roster.place(holder) + 1
            for site, share in shares.items():
                (self._seeds if site in alive else self._keys)[site][point] = share

    def seed(self, site: str) -> bytes | None:
        known = self._known.get(site)
        return known.seed if known else self._combined(self._seeds[site])

    def key(self, site: str) -> bytes | None:
        known = self._known.get(site)
        return known.key if known else self._combined(self._keys[site])

    def peel(self, site: str, masked: Words, cohort: Cohort, *, ring: Ring) -> tuple[Words, int]:
        """A site's masked vector without the masks that are known, and how many are not.

        ``cohort`` is the one that the site was shown.
        """
        own, digest, add, subtract = cohort.of(site), cohort.digest(self.roster), [], []
        unknown = 0
        seed = self.seed(site)
        if seed is None:
            unknown += 1
        else:
            subtract.append(self_mask_key(seed, digest, site))
        for other in cohort.dealt:
            if other.site == site:
                continue
            mask = None
            for mine, theirs in ((own, other), (other, own)):
                key = self.key(mine.site)
                if key is not None:
                    mask = pair_mask_key(AgreementKey(key), digest, own=mine, other=theirs)
            if mask is None:
                unknown += 1
            else:
                (subtract if site < other.site else add).append(mask)
        return apply_masks(masked, ring=ring, add=add, subtract=subtract), unknown

    def _combined(self, shares: Mapping[int, bytes]) -> bytes | None:
        points = sorted(shares)[: self.roster.graph.threshold]
        if len(points) < self.roster.graph.threshold:
            return None
        return Combiner(points).combine([shares[point] for point in points])


def looks_uniform(words: Words, *, ring: Ring) -> bool:
    """χ² of the lowest and of the highest eight bits, of words and of the steps between two and two.

    256 cells, 255 degrees of freedom; a uniform sample fails with probability 4·FALSE_ALARM at most.
    """
    half = len(words) // 2
    steps = ring.reduced(words[1 : 2 * half : 2] - words[: 2 * half : 2])
    limit = chi2.isf(FALSE_ALARM, 255)
    cells = [
        values.astype(np.uint64) >> np.uint64(shift) & np.uint64(255)
        for values in (words, steps)
        for shift in (0, ring.bits - 8)
    ]
    return all(chi_squared(cell, cells=256) < limit for cell in cells)


def chi_squared(values: np.ndarray, *, cells: int) -> float:
    """Pearson's statistic against equal cells; each expects five or more, where χ² describes it."""
    counts = np.bincount(values.astype(np.int64).ravel(), minlength=cells)
    expected = counts.sum() / cells
    if expected < 5:
        raise ValueError(f"expected 5 values a cell, got {expected:g}")
    return float(((counts - expected) ** 2).sum() / expected)


def modular_inverse(value: int) -> int:
    return pow(value, -1, PRIME)
