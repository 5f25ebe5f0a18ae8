"""What sums under masks cost, beside Flower's SecAgg+ in the same process: processor time, and bytes.

One site's whole round without dropouts, and the coordinator's unmasking after a tenth of the sites dropped
out: 100 sites, a vector of a million, a threshold of 67, every site masking with every other. Ratios say
how many times as much Flower takes. Of its unmasking, some masks and secrets of each kind are timed and
multiplied. The same without Flower of 1,000 sites of which 900 must be left, on a sparse graph: a first
round, in which a site verifies its neighbours' session keys, and a later one, beside those of 100 sites.

Run: python benchmarks/secagg.py [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
from flower_secagg import flowers_site, flowers_unmasking, seconds

from privacy.identity import Identity
from privacy.mechanisms.rng import fresh_source
from privacy.secagg.encoding import Encoding, example_encoding
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.masks.site_steps import SiteState, begin, confirm, deal, prepare, reveal
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Roster, Rules, check_signed

SITES, DIMENSION, THRESHOLD, DROPPED, BITS = 100, 1_000_000, 67, 10, 32
SMALL_SITES, SMALL_DIMENSION = 10, 75_000
MANY_SITES, MANY_THRESHOLD = 1000, 900
ROUNDS, UNMASKINGS, SMALL_EXCHANGES, MANY_ROUNDS = 5, 3, 7, 5


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Everything before the vectors, of all sites: what one of them or the coordinator then needs."""

    identities: Mapping[str, Identity]
    begun: Mapping[str, SiteState]
    roster: Roster
    dealt: Mapping[str, tuple[SiteState, Dealing]]
    cohorts: Mapping[str, Cohort]

    @property
    def peers(self) -> dict[str, bytes]:
        return {site: identity.public for site, identity in self.identities.items()}


def set_up(identities: Mapping[str, Identity], threshold: int) -> Exchange:
    manifest, size = bytes(32), len(identities)
    peers = {site: identity.public for site, identity in identities.items()}
    begun = {
        site: begin(site, manifest, identity=identity, random=os.urandom)
        for site, identity in identities.items()
    }
    rules = Rules(manifest=manifest, cohort=size, threshold=threshold, min_survivors=threshold)
    roster = Roster(rules=rules, number=1, members=tuple(member for _, member in begun.values()))
    dealt = {
        site: deal(state, roster, peers=peers, random=os.urandom) for site, (state, _) in begun.items()
    }
    return Exchange(
        identities=identities,
        begun={site: state for site, (state, _) in begun.items()},
        roster=roster,
        dealt=dealt,
        cohorts=forward(roster, {site: dealing for site, (_, dealing) in dealt.items()}),
    )


def finish(
    exchange: Exchange, contributed: Mapping[str, SiteState], survivors: Sequence[str]
) -> dict[str, dict[str, bytes]]:
    """Survivors confirm and reveal: their shares."""
    signatures = {
        site: confirm(contributed[site], survivors, number=1, identity=exchange.identities[site])[1]
        for site in signers_of(exchange.roster, survivors)
    }
    return {
        site: reveal(state, survivors, number=1, signatures=signatures)[1]
        for site, state in contributed.items()
    }


def signers_of(roster: Roster, survivors: Sequence[str]) -> list[str]:
    """As many survivors as must sign."""
    return [site for site in survivors if site in roster.signers][: roster.committee.quorum]


def contribute(state: SiteState, cohort: Cohort, words: Words, ring: Ring) -> tuple[SiteState, Words]:
    """A site's vector under its masks, and the state after it."""
    ready = prepare(state, cohort, number=1)
    return ready.state, ready.mask(words, ring=ring)


def named(size: int) -> dict[str, Identity]:
    return {f"site-{k:03d}": Identity.generate() for k in range(size)}


def grid(sites: int, dimension: int) -> Encoding:
    return example_encoding(
        bits=BITS,
        sites=sites,
        dimension=dimension,
        signal_l2=1.0,
        noise_std=0.01,
        largest=8.0,
        rotation_seed=bytes(32),
    )


# A site's round


def our_site(exchange: Exchange, update: np.ndarray, *, first: bool = True) -> Callable[[], None]:
    """One site's round; in a run's ``first`` it makes a session and has seen nobody's signature."""
    (own, *others), identities = list(exchange.identities), exchange.identities
    sites, cohorts, encoding = [own, *others], exchange.cohorts, grid(len(identities), DIMENSION)
    peers = exchange.peers
    # Others sign who survives: to be able to, they contribute, and a short vector will do.
    short = encoding.ring.words(np.zeros(1, np.int64))
    signatures = {}
    signers = signers_of(exchange.roster, others)
    for site in signers:
        state = exchange.dealt[site][0]
        state, _ = contribute(state, cohorts[site], short, encoding.ring)
        _, signatures[site] = confirm(state, sites, number=1, identity=identities[site])

    def work() -> None:
        if first:
            check_signed.cache_clear()
            begin(own, bytes(32), identity=identities[own], random=os.urandom)
        deal(exchange.begun[own], exchange.roster, peers=peers, random=os.urandom)
        words = encoding.words(encoding.integers(update, fresh_source()))
        # The others hold what it dealt before, so its vector is masked by that.
        state, masked = contribute(exchange.dealt[own][0], cohorts[own], words, encoding.ring)
        encoding.ring.pack(masked)
        if own in exchange.roster.signers:
            state, _ = confirm(state, sites, number=1, identity=identities[own])
        reveal(state, sites, number=1, signatures=signatures)

    return work


# The coordinator's unmasking


def our_unmasking(exchange: Exchange) -> Callable[[], None]:
    """All of it, to the mean. Its secrets are of an exchange of short vectors, whose sum is checked."""
    sites, ring = list(exchange.identities), Ring(BITS)
    dropped = len(sites) // 10
    survivors = sites[dropped:]
    short = np.random.default_rng(1).integers(-1000, 1000, (len(sites), 100))
    given = {
        site: contribute(exchange.dealt[site][0], exchange.cohorts[site], ring.words(row), ring)
        for site, row in zip(sites, short, strict=True)
        if site in survivors
    }
    shares = finish(exchange, {site: state for site, (state, _) in given.items()}, survivors)
    encoding, cohort = grid(len(sites), DIMENSION), exchange.cohorts[survivors[0]]

    def uncovered(total: Words) -> Words:
        return unmask(
            total,
            ring=ring,
            roster=exchange.roster,
            cohort=cohort,
            survivors=survivors,
            shares=shares,
        )

    found = uncovered(add_up([masked for _, masked in given.values()], ring=ring, size=100))
    assert (ring.centred(found) == short[dropped:].sum(axis=0)).all()
    masked = ring.words(np.random.default_rng(2).integers(0, 1 << 32, DIMENSION))
    return lambda: encoding.mean(uncovered(masked), count=len(survivors))


# Bytes, and small exchanges


def length(content: object) -> int:
    """The bytes in what a site sends, without any framing."""
    if isinstance(content, bytes | str):
        return len(content)
    if is_dataclass(content):
        return sum(length(getattr(content, field.name)) for field in fields(content))
    if isinstance(content, Mapping):
        return sum(map(length, [*content.keys(), *content.values()]))
    return sum(map(length, content))  # type: ignore[call-overload]


def bytes_per_site(exchange: Exchange, dimension: int) -> int:
    """What one site sends in a round without dropouts: its key, dealing, vector, signature and shares."""
    own, *_ = sites = list(exchange.identities)
    state, dealing = exchange.dealt[own]
    encoding = grid(len(sites), dimension)
    words = encoding.words(np.zeros(dimension, np.int64))
    state, masked = contribute(state, exchange.cohorts[own], words, encoding.ring)
    contributed = {
        site: contribute(other, exchange.cohorts[site], words[:1], encoding.ring)[0]
        for site, (other, _) in exchange.dealt.items()
    }
    _, signature = confirm(state, sites, number=1, identity=exchange.identities[own])
    shares = finish(exchange, contributed, sites)[own]
    member = exchange.roster.members[0]
    return sum(map(length, [member, dealing, encoding.ring.pack(masked), signature, shares]))


def small_exchange(identities: Mapping[str, Identity], updates: np.ndarray) -> None:
    """A whole exchange of ten sites and the coordinator, one after another, with one that drops out."""
    exchange = set_up(identities, 2 * SMALL_SITES // 3 + 1)
    encoding, survivors = grid(SMALL_SITES, SMALL_DIMENSION), list(identities)[1:]
    states, packed = {}, []
    for site, update in zip(survivors, updates[1:], strict=True):
        words = encoding.words(encoding.integers(update, fresh_source()))
        states[site], masked = contribute(
            exchange.dealt[site][0], exchange.cohorts[site], words, encoding.ring
        )
        packed.append(encoding.ring.pack(masked))
    shares = finish(exchange, states, survivors)
    vectors = (encoding.ring.unpack(content, size=SMALL_DIMENSION) for content in packed)
    found = unmask(
        add_up(vectors, ring=encoding.ring, size=SMALL_DIMENSION),
        ring=encoding.ring,
        roster=exchange.roster,
        cohort=exchange.cohorts[survivors[0]],
        survivors=survivors,
        shares=shares,
    )
    mean = encoding.mean(found, count=len(survivors))
    # A stochastic rounding moves each by less than a step, and float32 by 2^-24 of itself.
    assert np.abs(mean - updates[1:].mean(axis=0)).max() < 1.0 / encoding.scale + 1e-6


def many(few: Exchange, update: np.ndarray) -> dict[str, object]:
    """A site's round and the unmasking with 1,000 sites, and how a site's round compares with 100's."""
    exchange = set_up(named(MANY_SITES), MANY_THRESHOLD)
    found: dict[str, object] = {
        "many_neighbours": len(exchange.roster.graph.neighbours[0]),
        "many_signers": [exchange.roster.committee.quorum, len(exchange.roster.signers)],
    }
    for first in (True, False):
        works = our_site(few, update, first=first), our_site(exchange, update, first=first)
        rounds = [[seconds(work) for work in works] for _ in range(MANY_ROUNDS)]
        name = "first" if first else "later"
        found |= spread(f"client_{name}_few_s", [one for one, _ in rounds])
        found |= spread(f"client_{name}_many_s", [one for _, one in rounds])
        found |= spread(f"client_{name}_many_ratio", [one / other for other, one in rounds])
    return found | {"server_many_s": seconds(our_unmasking(exchange))}


def spread(name: str, values: Sequence[float]) -> dict[str, object]:
    """The median under its name, with the least and the most."""
    return {name: statistics.median(values), f"{name}_range": [min(values), max(values)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    update = np.random.default_rng(0).normal(0.0, 0.01, DIMENSION).astype(np.float32)
    exchange = set_up(named(SITES), THRESHOLD)
    site = our_site(exchange, update), flowers_site(update, sites=SITES, threshold=THRESHOLD)
    rounds = [[seconds(work) for work in site] for _ in range(ROUNDS)]
    unmasking = our_unmasking(exchange)
    unmaskings = [
        (
            seconds(unmasking),
            flowers_unmasking(DIMENSION, sites=SITES, threshold=THRESHOLD, dropped=DROPPED),
        )
        for _ in range(UNMASKINGS)
    ]
    sent, most = bytes_per_site(exchange, DIMENSION), 102 * DIMENSION * BITS // 800 + 300 * SITES
    identities = named(SMALL_SITES)
    updates = np.random.default_rng(4).normal(0.0, 0.01, (SMALL_SITES, SMALL_DIMENSION)).astype(np.float32)
    small = [seconds(lambda: small_exchange(identities, updates)) for _ in range(SMALL_EXCHANGES)]
    found = {
        **spread("client_s", [ours for ours, _ in rounds]),
        **spread("flower_client_s", [flowers for _, flowers in rounds]),
        **spread("server_s", [ours for ours, _ in unmaskings]),
        **spread("flower_server_s", [sum(flowers.values()) for _, flowers in unmaskings]),
        "flower_server_parts_s": {
            part: statistics.median(flowers[part] for _, flowers in unmaskings) for part in unmaskings[0][1]
        },
        "bytes_per_site": sent,
        "bytes_aim": most,
        **spread("small_exchange_s", small),
    }
    found["client_ratio"] = found["flower_client_s"] / found["client_s"]
    found["server_ratio"] = found["flower_server_s"] / found["server_s"]
    found |= many(exchange, update)
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
