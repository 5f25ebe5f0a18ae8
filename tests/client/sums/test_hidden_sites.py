"""Whole sites that noise in the sum hides: what is summed, what is told of it, and what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.ledger.entries import Summed
from privacy.ledger.ledger_audit import audit_ledger
from privacy.secagg.masks.coordinator_steps import forward
from protocol.messages import confide_pb2 as pb
from protocol.sums.update_encoding import plan_for_site
from simulation.simulated_federation import World
from tasks.model.frozen_prefix import Activations
from tests import tiny
from tests.client.masked_sites import MaskedSites
from tests.client.sites import ask, charges

PRIVACY = {"unit": "site", "mechanism": "skellam", "epsilon": 8.0, "delta": 1e-3}


@pytest.fixture
def hidden(tiny_folder: Path, tmp_path: Path) -> MaskedSites:
    world = World(tiny.job(tiny_folder, aggregation={"kind": "masks"}, privacy=PRIVACY))
    return MaskedSites(world, tmp_path)


def summed(home: Path) -> list[Summed]:
    entries = audit_ledger(home / "ledger.db").entries
    return [entry.event for entry in entries if isinstance(entry.event, Summed)]


def test_what_was_summed_is_in_every_ledger_once_it_is_uncovered(hidden: MaskedSites) -> None:
    roster = hidden.roster()
    cohorts = hidden.deal(roster)
    masked, _ = hidden.train(cohorts)
    assert all(not summed(hidden.homes / name) for name in masked)
    hidden.uncover(roster, cohorts, masked)
    for name in masked:
        (event,) = summed(hidden.homes / name)
        assert (event.run, event.round, event.survivors) == ("run", 1, 3)
        (charge,) = charges(hidden.homes / name)
        assert (charge.steps, charge.taken) == (1, 1)
        assert 0 < event.epsilon < 8.0
    hidden.restart("site-1")
    request = pb.Unmask(manifest_digest=hidden.manifest.digest, number=1, survivors=sorted(masked))
    assert ask(hidden.sites["site-1"], unmask=request).refused.lost
    assert len(summed(hidden.homes / "site-1")) == 1


def test_noise_that_is_drawn_again_bounds_nothing_and_is_not_recorded(
    tiny_folder: Path, tmp_path: Path
) -> None:
    job = tiny.job(tiny_folder, aggregation={"kind": "masks"}, privacy=PRIVACY, seeds={"noise": 5})
    keyed = MaskedSites(World(job), tmp_path)
    roster = keyed.roster()
    cohorts = keyed.deal(roster)
    masked, _ = keyed.train(cohorts)
    keyed.uncover(roster, cohorts, masked)
    assert all(not summed(keyed.homes / name) for name in masked)


def test_noise_is_in_the_sum_and_the_updates_clipped(
    hidden: MaskedSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites that move nothing: what is uncovered is the noise of three shares, its deviation as planned."""
    size = hidden.update_size
    monkeypatch.setattr(hidden.world.trainer, "train", lambda *_, **__: np.zeros(size, np.float32))
    roster, found = hidden.roster(1), []
    cohorts = hidden.deal(roster)
    plan = plan_for_site(hidden.manifest, update_size=size)
    assert isinstance(plan, SharedSitePlan)
    for number in range(1, 4):
        following = hidden.roster(number + 1) if number < 3 else None
        masked, dealings = hidden.train(cohorts, number=number, round_number=number, following=following)
        words = hidden.uncover(roster, cohorts, masked)
        found.append(hidden.ring.centred(words))
        if following is not None:
            roster, cohorts = following, forward(following, dealings)
    noise = np.concatenate(found).astype(float)
    planned = plan.mechanism.multiplier * plan.shared.sensitivity.l2
    # As in test_sending.py: six deviations of ln of a sample variance; ln (3⁄2)² is 0.81.
    tolerance = 6 * np.sqrt(2 / len(noise))
    assert tolerance < 0.8
    for factor in (2 / 3, 1.0, 3 / 2):
        near = abs(np.log(np.mean(noise**2) / (factor * planned) ** 2)) < tolerance
        assert near == (factor == 1.0)


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_in_the_sum_as_zero_and_nobody_is_told(
    hidden: MaskedSites, monkeypatch: pytest.MonkeyPatch, what: float, caplog: pytest.LogCaptureFixture
) -> None:
    size = hidden.update_size
    monkeypatch.setattr(hidden.world.trainer, "train", lambda *_, **__: np.full(size, what, np.float32))
    roster = hidden.roster()
    cohorts = hidden.deal(roster)
    masked, _ = hidden.train(cohorts)
    assert np.isfinite(hidden.mean(hidden.uncover(roster, cohorts, masked))).all()
    assert caplog.text == ""


def test_examples_that_are_not_finite_do_not_stop_a_site_that_noise_hides(hidden: MaskedSites) -> None:
    """A refusal would tell of one example what no noise is in."""
    model = hidden.world.adapted.peft
    embedding = next(module for name, module in model.named_modules() if name.endswith("word_embeddings"))
    roster = hidden.roster()
    cohorts = hidden.deal(roster)
    kept = embedding.weight.data.clone()
    try:
        embedding.weight.data[5:] = float("nan")
        for site in hidden.sites.values():
            session = site._session
            again = Activations(hidden.world.prefix, session.materials.examples)
            site._session = replace(session, materials=replace(session.materials, activations=again))
        masked, _ = hidden.train(cohorts)
    finally:
        embedding.weight.data[:] = kept
    assert np.isfinite(hidden.mean(hidden.uncover(roster, cohorts, masked))).all()
