"""Every byte of an exchange: written out from the primitives, and as it was.

``vectors/secagg.json`` is written anew by::

    python -c "from tests.privacy.secagg.masks.test_vectors import write_vectors; write_vectors()"
"""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Dealing
from tests.privacy.exchanges import MANIFEST, Sites, draw_vectors, make_rules, names
from tests.privacy.secagg.masks.test_masking import mask
from tests.privacy.secagg.test_sealing import hkdf

ASKED = bytes(range(32, 64))
VECTORS = Path(__file__).parent / "vectors" / "secagg.json"


def test_a_masked_vector_is_what_the_paper_says() -> None:
    """Written out from X25519, HKDF and AES: x_u + PRG(b_u) + Σ_{u<v} PRG(s_uv) − Σ_{u>v} PRG(s_uv)."""

    def derived(secret: bytes, *content: bytes) -> bytes:
        info = b"".join(len(part).to_bytes(4, "little") + part for part in content)
        return hkdf(secret, salt=b"", info=b"confide " + info, size=32)

    sites, ring = Sites(make_rules(5)), Ring(32)
    roster = sites.roster()
    dealings = sites.deal(roster)
    cohorts = forward(roster, dealings, asked=ASKED)
    vectors = draw_vectors(names(5), ring=ring, size=3)
    dealers = {site: sites.states[site].dealer for site in names(5)}
    masked = sites.contribute(cohorts, vectors, ring=ring)
    cohort = cohorts[names(5)[0]].digest(roster)
    for site in names(5):
        own = derived(dealers[site].seed, b"self mask", cohort, site.encode())
        expected = vectors[site] + mask(own, 3, ring)
        private = X25519PrivateKey.from_private_bytes(dealers[site].key)
        for other in names(5):
            if other == site:
                continue
            secret = private.exchange(X25519PublicKey.from_public_bytes(dealings[other].key))
            first, second = sorted([site, other])
            public = dealings[first].key, dealings[second].key
            pair = derived(secret, b"pair mask", cohort, first.encode(), second.encode(), *public)
            expected = expected + mask(pair, 3, ring) if site < other else expected - mask(pair, 3, ring)
        np.testing.assert_array_equal(masked[site], expected)


def transcript() -> dict[str, object]:
    """Every byte of an exchange of four, of which one drops out after dealing; in each ring."""
    sites = Sites(make_rules(4), seed="vectors")
    roster = sites.roster(7)
    dealings = sites.deal(roster)
    cohorts = forward(roster, dealings, asked=ASKED)
    survivors = [names(4)[0], *names(4)[2:]]
    masked: dict[str, dict[str, str]] = {}
    sums: dict[str, str] = {}
    for bits in (16, 20, 32, 64):
        ring, each = Ring(bits), copy(sites)
        words: dict[str, Words] = {
            site: ring.words(np.array([0, 1, -1, 2**14 + place, -(2**15) + place], np.int64))
            for place, site in enumerate(survivors)
        }
        found = each.contribute({site: cohorts[site] for site in survivors}, words, ring=ring, number=7)
        masked[str(bits)] = {site: ring.pack(each_masked).hex() for site, each_masked in found.items()}
        signatures = each.confirm(survivors, number=7)
        shares = each.reveal(survivors, signatures, number=7)
        total = add_up(found.values(), ring=ring, size=5)
        plain = unmask(
            total,
            ring=ring,
            roster=roster,
            cohort=cohorts[survivors[0]],
            survivors=survivors,
            shares=shares,
        )
        np.testing.assert_array_equal(plain, add_up(words.values(), ring=ring, size=5))
        sums[str(bits)] = ring.pack(plain).hex()
    return {
        "manifest": MANIFEST.hex(),
        "asked": ASKED.hex(),
        "sessions": {
            each.site: {"key": each.key.hex(), "signature": each.signature.hex()} for each in roster.members
        },
        "roster": roster.digest.hex(),
        "dealings": {site: _as_hex(dealing) for site, dealing in dealings.items()},
        "cohort": cohorts[survivors[0]].digest(roster).hex(),
        "masked": masked,
        "signatures": {site: signature.hex() for site, signature in signatures.items()},
        "shares": {
            holder: {site: share.hex() for site, share in held.items()} for holder, held in shares.items()
        },
        "sums": sums,
    }


def _as_hex(dealing: Dealing) -> dict[str, object]:
    return {
        "key": dealing.key.hex(),
        "commitment": dealing.commitment.hex(),
        "sealed": [content.hex() for content in dealing.sealed],
    }


def write_vectors() -> None:
    VECTORS.write_text(json.dumps(transcript(), indent=1) + "\n", "utf-8")


def test_every_byte_is_what_it_was() -> None:
    """A change here is a change of protocol: sites of two versions could not take part in one exchange."""
    expected = json.loads(VECTORS.read_text("utf-8"))
    found = transcript()
    assert list(found) == list(expected)
    for part, content in found.items():
        assert content == expected[part], part
