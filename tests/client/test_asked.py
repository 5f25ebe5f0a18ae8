"""A coordinator that asks one honest site for another thing than the others, and looks at their sum.

Nobody colludes, and all mask with one another. What the others are asked for comes to nothing, or to what
is known: a grid too coarse for their updates, a round with no learning rate left, an adapter that nothing
moves, metrics in place of an update. Without what was asked in the masks' keys, the sum is the one site's
update (Pasquini, Francati and Ateniese 2022, arXiv:2111.07380).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.errors import AggregationError
from privacy.mechanisms.rng import keyed_source
from privacy.secagg.masks.coordinator_steps import add_up, forward
from privacy.secagg.ring import Ring, Words
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    METRICS_RING,
    asked_to_evaluate,
    make_rules,
    read_shares,
    write_cohort,
)
from tests.client.masked import Federation, asked_for, listed, make_session, unbind
from tests.client.sums.test_site_sums import (
    draw_update,
    grid,
    make_manifest,
    make_sender,
    plan_of,
    request_of,
)
from tests.privacy.exchanges import Adversary, looks_uniform, names
from tests.privacy.grids import rounding_std

# Enough words for looks_uniform's cells; three of four sites uncover a sum.
SIZE, COUNT = 6000, 4
ALL = names(COUNT)
TARGET, OTHERS = ALL[1], [site for site in ALL if site != ALL[1]]

Request = pb.Train | pb.Evaluate


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    unbind(monkeypatch)


class Lie:
    """One sum, in which all others are asked for what ``change`` makes of the target's request."""

    def __init__(self, change: Callable[[pb.Train], Request] | None, *, bits: int, bound: bool) -> None:
        self.bits, self.bound = bits, bound
        self.manifest = replace(make_manifest(aggregation={"modulus_bits": bits}), cohort=COUNT)
        self.plan = plan_of(self.manifest, SIZE)
        rules = make_rules(self.manifest)
        assert rules.threshold == len(OTHERS)
        self.federation = Federation({site: make_session(site, rules=rules) for site in ALL}, rules)
        self.roster = self.federation.roster()
        dealings = self.federation.deal(self.roster)
        target = request_of(self.manifest, self.plan)
        other = change(copied(target)) if change else target
        self.requests: dict[str, Request] = dict.fromkeys(OTHERS, other) | {TARGET: target}
        # Each site's cohort as it sees it; what is sent is the same dealings to all.
        self.cohorts = {
            site: forward(self.roster, dealings, asked=asked_for(self.requests[site]) if bound else b"")[
                site
            ]
            for site in ALL
        }
        # As long as its noise makes it.
        self.update = draw_update(1, norm=target.noise_std * SIZE**0.5, size=SIZE)
        self.masked = {site: self.answer(site) for site in ALL}

    def answer(self, site: str) -> Words:
        request, session = copied(self.requests[site]), self.federation.sessions[site]
        request.cohort.CopyFrom(write_cohort(self.cohorts[site], number=1))
        if isinstance(request, pb.Evaluate):
            ring, asked = METRICS_RING, asked_to_evaluate(request)
            session.check(request.cohort, asked=asked, round_number=3)
            # Metrics that the coordinator knows, as many as fill the update.
            sent, _ = session.contribute(
                request.cohort, np.zeros(SIZE // 2, ring.dtype), asked=asked, ring=ring, round_number=3
            )
            return ring.unpack(sent, size=SIZE // 2)
        sender = make_sender(self.manifest, session, self.plan, size=SIZE)
        sender.check(request)
        update = self.update if site == TARGET else self.others_update(site)
        sent, _ = sender.send(update, request, keyed_source(site))
        return Ring(self.bits).unpack(sent, size=SIZE)

    def others_update(self, site: str) -> NDArray[np.float32]:
        request, target = self.requests[site], self.requests[TARGET]
        if request == target or request.noise_std > target.noise_std:
            return draw_update(ALL.index(site) + 2, norm=float(np.linalg.norm(self.update)), size=SIZE)
        return np.zeros(SIZE, np.float32)

    def signatures(self) -> dict[str, bytes]:
        return {site: self.federation.sessions[site].confirm(listed(ALL)) for site in ALL}

    def reveal(self, site: str, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        signed = [pb.Signed(site=name, signature=signature) for name, signature in signatures.items()]
        request = pb.Unmask(number=1, survivors=ALL, signatures=signed)
        return read_shares(self.federation.sessions[site].reveal(request)[0], self.roster)

    def uncover(self) -> Words:
        """All that the coordinator can take off the sum: the others confirm and reveal without it."""
        signatures = self.signatures()
        some = {site: signatures[site] for site in OTHERS}
        adversary = Adversary(self.roster)
        adversary.learn_revealed(ALL, {site: self.reveal(site, some) for site in OTHERS})
        return self.add_up({site: self.peel(adversary, site) for site in ALL})

    def peel(self, adversary: Adversary, site: str) -> Words:
        words, unknown = adversary.peel(
            site, self.masked[site], self.cohorts[site], ring=self.ring_of(site)
        )
        # Every self mask is known, and no pair mask: these must cancel out, or stay.
        assert unknown == len(OTHERS)
        return words

    def ring_of(self, site: str) -> Ring:
        return METRICS_RING if isinstance(self.requests[site], pb.Evaluate) else Ring(self.bits)

    def add_up(self, words: Mapping[str, Words]) -> Words:
        ring, wide = Ring(self.bits), self.ring_of(OTHERS[0])
        if wide == ring:
            return add_up(words.values(), ring=ring, size=SIZE)
        # The masks' bytes are the same in both: two words of the update lie in one of the metrics.
        both = [words[TARGET].view(np.uint64), *(words[site] for site in OTHERS)]
        return add_up(both, ring=wide, size=SIZE // 2).astype(np.uint32)

    def target_words(self) -> Words:
        """What the target masks, of which every second one can be seen if the others' are metrics."""
        sender = make_sender(self.manifest, Plain(), self.plan, size=SIZE)
        sent, _ = sender.send(self.update, self.requests[TARGET], keyed_source(TARGET))
        words = Ring(self.bits).unpack(sent, size=SIZE)
        return words[::2] if self.ring_of(OTHERS[0]) == METRICS_RING else words


class Plain:
    """In the place of a masked session: what would be masked leaves as it is."""

    def contribute(self, _cohort: pb.Cohort, words: Words, *, ring: Ring, **_: Any) -> tuple[bytes, None]:
        return ring.pack(words), None


def copied(request: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def with_field(**fields: Any) -> Callable[[pb.Train], Request]:
    def change(request: pb.Train) -> Request:
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    return change


LIES: dict[str, tuple[int, Callable[[pb.Train], Request]]] = {
    "a grid of its own": (16, with_field(noise_std=1e12)),
    "a round of its own": (32, with_field(round=3)),
    "a round of its own, in 16 bits": (16, with_field(round=3)),
    "an adapter of its own": (32, with_field(adapter=bytes(range(8)))),
    "an adapter of its own, in 20 bits": (20, with_field(adapter=bytes(range(8)))),
    "another mean beside its adapter": (32, with_field(beside=bytes(range(8)))),
    "an update, the others for metrics": (32, lambda request: pb.Evaluate(adapter=request.adapter)),
}


@pytest.mark.parametrize("what", LIES)
def test_the_sum_says_nothing_of_a_site_that_was_asked_for_something_else(what: str) -> None:
    """It is the one survivor that does not sign, all others agree, and its own self mask is uncovered."""
    bits, change = LIES[what]
    lie = Lie(change, bits=bits, bound=True)
    found, words, ring = lie.uncover(), lie.target_words(), Ring(bits)
    assert looks_uniform(found, ring=ring)
    # Nor is the rest that hides it one that is the same everywhere.
    assert looks_uniform(ring.reduced(found - words), ring=ring)
    assert not looks_uniform(words, ring=ring)
    assert error(found, words, ring) > 0.4


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("what", LIES)
def test_without_what_was_asked_in_the_masks_the_target_is_read(what: str) -> None:
    """Control, and the reason for all this: the same lies, sites and adversary."""
    bits, change = LIES[what]
    lie = Lie(change, bits=bits, bound=False)
    found, words, ring = lie.uncover(), lie.target_words(), Ring(bits)
    assert not looks_uniform(found, ring=ring)
    # On the coarse grid a number of the others is below 1e-12 of a step: it rounds to another than 0 once
    # in 5e7 sums.
    np.testing.assert_array_equal(found, words)


def error(found: Words, words: Words, ring: Ring) -> float:
    """The root mean square of what is off, in units of the ring's whole width over √12: uniform is 1."""
    off = ring.centred(ring.reduced(found - words)).astype(float)
    return float(np.sqrt(np.mean(off**2)) / (2.0**ring.bits / 12**0.5))


@pytest.mark.parametrize("what", LIES)
def test_a_list_with_its_signature_uncovers_nothing_at_all(what: str) -> None:
    """Its signature is no other's, and theirs are not its: whoever is shown both reveals nothing."""
    bits, change = LIES[what]
    lie = Lie(change, bits=bits, bound=True)
    signatures = lie.signatures()
    for site in ALL:
        with pytest.raises(AggregationError, match="did not sign") as refused:
            lie.reveal(site, signatures)
        assert refused.value.rule == "survivors"
    with pytest.raises(AggregationError) as refused:
        lie.reveal(TARGET, {site: signatures[site] for site in OTHERS})
    assert refused.value.rule == "survivors"


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_sites_that_are_asked_for_one_thing_make_their_sum(bits: int) -> None:
    """Control: what hides the target above is that it was asked for something else."""
    lie = Lie(None, bits=bits, bound=True)
    encoding = grid(lie.manifest, lie.plan, size=SIZE)
    signatures = lie.signatures()
    found = encoding.mean(lie.uncover(), count=COUNT)
    updates = [lie.update, *(lie.others_update(site) for site in OTHERS)]
    # As in test_sending.py: six deviations of the rounding, and float32.
    limit = 6 * rounding_std(encoding, count=COUNT) + 1e-6 * np.abs(updates).max()
    assert np.abs(found - np.mean(updates, axis=0)).max() < limit
    assert set(lie.reveal(TARGET, signatures)) == set(ALL)
