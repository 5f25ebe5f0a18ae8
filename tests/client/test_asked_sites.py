"""Whole sites, of which a coordinator asks one for something else: it reads nothing of that one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.mechanisms.rng import keyed_source
from privacy.secagg.masks.coordinator_steps import add_up
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import METRICS_RING, read_shares
from protocol.sums.update_encoding import make_encoding
from simulation.simulated_federation import World
from tests import tiny
from tests.client.masked import asked_for, unbind
from tests.client.masked_sites import MaskedSites, plain_mean
from tests.client.sites import ask
from tests.privacy.exchanges import Adversary

SEEDS = {"noise": 5}  # the same noise of each site, whatever is masked
Request = pb.Train | pb.Evaluate


def make_world(folder: Path, **changes: Any) -> World:
    return World(tiny.job(folder, federation={"sites": 4}, seeds=SEEDS, **changes))


class Lie:
    """A sum of four sites, in which all but the first are asked for something else."""

    def __init__(self, sites: MaskedSites, change: Callable[[Cohort], Request], *, bound: bool) -> None:
        self.sites, self.roster = sites, sites.roster()
        dealt = sites.deal(self.roster)
        self.target, *self.others = dealt
        requests: dict[str, Request] = {name: change(dealt[name]) for name in self.others}
        requests[self.target] = sites.train_request(dealt[self.target])
        self.cohorts = {
            name: replace(dealt[name], asked=asked_for(request) if bound else b"")
            for name, request in requests.items()
        }
        self.rings = {
            name: METRICS_RING if isinstance(request, pb.Evaluate) else sites.ring
            for name, request in requests.items()
        }
        self.masked = {name: self.answer(name, request) for name, request in requests.items()}

    def answer(self, name: str, request: Request) -> Words:
        if isinstance(request, pb.Evaluate):
            return METRICS_RING.unpack(self.sites.ask(name, "evaluated", evaluate=request).masked, size=2)
        trained = self.sites.ask(name, "trained", train=request)
        return self.sites.ring.unpack(trained.update, size=self.sites.size)

    def residues(self) -> dict[str, Words]:
        """Masked vectors without their self masks, all of which the others reveal, who agree."""
        digest, survivors = self.sites.manifest.digest, sorted(self.masked)
        request = pb.Unmask(manifest_digest=digest, number=1, survivors=survivors)
        confirm = pb.Confirm(manifest_digest=digest, number=1, survivors=survivors)
        for name in self.masked:
            signature = self.sites.ask(name, "confirmed", confirm=confirm).signature
            if name != self.target:
                request.signatures.append(pb.Signed(site=name, signature=signature))
        adversary = Adversary(self.roster)
        shares = {
            name: read_shares(self.sites.ask(name, "unmasked", unmask=request), self.roster)
            for name in self.others
        }
        adversary.learn_revealed(survivors, shares)
        self.request = request
        return {
            name: adversary.peel(name, self.masked[name], self.cohorts[name], ring=self.rings[name])[0]
            for name in self.masked
        }


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.exhaustive(but=1)
def test_others_on_a_grid_too_coarse_for_their_updates(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    """``bound=False`` is the control: the coordinator reads what that site would have sent unmasked."""
    if not bound:
        unbind(monkeypatch)
    world = make_world(tiny_folder, aggregation={"modulus_bits": 16})
    sites = MaskedSites(world, tmp_path / "masked")

    def coarse(cohort: Cohort) -> pb.Train:
        request = sites.train_request(cohort)
        request.noise_std = 1e12
        return request

    lie = Lie(sites, coarse, bound=bound)
    total = add_up(lie.residues().values(), ring=sites.ring, size=sites.size)
    own = plain_mean(make_world(tiny_folder), tmp_path / "plain", [lie.target])
    encoding, words = encoding_of(sites), integers(sites, own)
    off = sites.ring.centred(sites.ring.reduced(total - words)).astype(float)
    if bound:
        # Uniform off: in units of the ring's width, mean square 1/12, deviation 1/√(180 n): six.
        mean_square = float(np.mean((off / 2**16) ** 2))
        assert abs(mean_square - 1 / 12) < 6 / np.sqrt(180 * sites.size)
        assert np.abs(encoding.mean(total, count=1) - own).max() > 3 * np.abs(own).max()
        assert "survivors" in ask(sites.sites[lie.target], unmask=lie.request).refused.reason
    else:
        # Each was rounded to one of two neighbours, and so are these.
        assert np.abs(off).max() <= 1


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.exhaustive(but=1)
def test_others_that_are_asked_for_metrics(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    """In the control one number of the update is the sum's, less examples that the coordinator knows."""
    if not bound:
        unbind(monkeypatch)
    world = make_world(tiny_folder, aggregation={"kind": "masks"}, metrics={"epsilon": 1.0})
    sites = MaskedSites(world, tmp_path / "masked")
    lie = Lie(sites, sites.evaluate_request, bound=bound)
    residues = lie.residues()
    both = [residues[lie.target][:4].copy().view(np.uint64), *(residues[name] for name in lie.others)]
    seen = add_up(both, ring=METRICS_RING, size=2)[1] - sum(world.sizes[name] for name in lie.others)
    plain = make_world(tiny_folder, metrics={"epsilon": 1.0})
    own = integers(sites, plain_mean(plain, tmp_path / "plain", [lie.target]))
    ring = Ring(32)
    off = int(ring.centred(ring.reduced(np.array([seen]).astype(np.uint32) - own[2:3]))[0])
    # By chance a uniform word is as near once in 2e5.
    assert (abs(off) <= 1) != bound
    assert bound == (abs(off) > 10_000)
    if bound:
        assert "survivors" in ask(sites.sites[lie.target], unmask=lie.request).refused.reason


def encoding_of(sites: MaskedSites) -> Any:
    return make_encoding(sites.manifest, update_size=sites.update_size, number=1, noise_std=sites.noise_std)


def integers(sites: MaskedSites, update: NDArray[np.float32]) -> Words:
    """What a site makes of an update, but for its rounding."""
    encoding = encoding_of(sites)
    words: Words = encoding.words(encoding.integers(update, keyed_source(0)))
    return words
