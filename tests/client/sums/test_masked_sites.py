"""Whole sites sum under masks: refused before anything is charged, exact, and written into ledgers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.custody.home import Home
from client.site import Site
from privacy.identity import Identity
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.rng import NoiseSource, keyed_source
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import METRICS_RING
from protocol.sums.update_encoding import make_encoding
from simulation.simulated_federation import World
from tests import tiny
from tests.client.masked_sites import MaskedSites, plain_mean
from tests.client.sites import ask, charges, join


def make_world(folder: Path, **changes: Any) -> World:
    return World(tiny.job(folder, **({"aggregation": {"kind": "masks"}} | changes)))


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return make_world(tiny_folder)


@pytest.fixture
def sites(world: World, tmp_path: Path) -> MaskedSites:
    return MaskedSites(world, tmp_path)


def ledger(home: Path) -> bytes:
    """The ledger's head: what was ever written changes it."""
    return (home / "ledger.head").read_bytes()


# What is refused.


@pytest.mark.exhaustive(but=2)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda request: request.ClearField("cohort"),
        lambda request: setattr(request.cohort, "number", 7),
        lambda request: request.cohort.dealt.pop(),
        lambda request: request.cohort.dealt.reverse(),
        lambda request: setattr(request.cohort.dealt[0], "key", bytes(32)),
        lambda request: setattr(request.cohort.dealt[0], "sealed", bytes(80)),
        lambda request: setattr(request.cohort.dealt[2], "sealed", bytes(80)),
        lambda request: request.next.members.pop(),
        lambda request: setattr(request.next, "number", 1),
        lambda request: setattr(request.next.members[0], "site", "nobody"),
        lambda request: setattr(request.next.members[2], "identity", bytes(32)),
        lambda request: setattr(request, "noise_std", float("nan")),
    ],
)
def test_what_could_not_leave_is_refused_before_anything_is_charged(
    sites: MaskedSites, spoil: Callable[[pb.Train], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, roster = "site-2", sites.roster()
    cohorts = sites.deal(roster)
    request = sites.train_request(cohorts[name], following=sites.roster(2))
    spoilt = pb.Train()
    spoilt.CopyFrom(request)
    spoil(spoilt)
    before = ledger(sites.homes / name)
    changed = spoilt != request
    with monkeypatch.context() as patch:
        patch.setattr(sites.world.trainer, "train", None)
        refused = ask(sites.sites[name], train=spoilt).refused
    assert changed
    # "the site failed" is what an attempt to train would have come to.
    assert refused.reason
    assert "failed" not in refused.reason
    assert ledger(sites.homes / name) == before
    assert not charges(sites.homes / name)
    sites.ask(name, "trained", train=request)
    assert len(charges(sites.homes / name)) == 1


def test_one_vector_is_masked_in_a_sum_and_no_other(sites: MaskedSites) -> None:
    """Two under the same masks would show how a site's update hangs on the adapter."""
    name = "site-1"
    cohorts = sites.deal(sites.roster())
    request = sites.train_request(cohorts[name])
    sites.ask(name, "trained", train=request)
    other = sites.train_request(cohorts[name], adapter=sites.world.initial_adapter + 1, round_number=2)
    for again in (request, other):
        for _ in range(2):
            assert "replay" in ask(sites.sites[name], train=again).refused.reason
            sites.restart(name)
    assert len(charges(sites.homes / name)) == 1


def test_a_site_that_has_lost_its_secrets_says_so_and_joins_again(sites: MaskedSites) -> None:
    name = "site-3"
    cohorts = sites.deal(sites.roster())
    (path,) = (sites.homes / name / "secrets").iterdir()
    path.unlink()
    refused = ask(sites.sites[name], train=sites.train_request(cohorts[name])).refused
    assert refused.lost
    before = sites.members[name]
    sites.join(name)
    assert sites.members[name].key != before.key
    roster = sites.roster(2)
    cohorts = sites.deal(roster)
    masked, _ = sites.train(cohorts, number=2)
    assert np.isfinite(sites.mean(sites.uncover(roster, cohorts, masked), number=2)).all()


def test_a_damaged_file_says_what_to_do(sites: MaskedSites) -> None:
    (path,) = (sites.homes / "site-1" / "secrets").iterdir()
    path.write_bytes(path.read_bytes()[:-2])
    sites.restart("site-1")
    assert "remove the file" in join(sites.sites["site-1"], sites.manifest).refused.reason


def test_a_site_that_its_peers_file_has_another_key_for_tells_its_custodian(
    world: World, tmp_path: Path
) -> None:
    site, stranger = world.site("site-1", home=tmp_path / "site-1"), Identity.generate().public
    others = site._peers()
    for changed, words in (
        (others | {"site-1": stranger}, "custodian puts the federation's new peers.toml in its home"),
        (
            {"site-2": others["site-2"]},
            "its custodian puts the federation's new one in its home",
        ),
    ):
        site._peers = lambda changed=changed: changed
        refused = join(site, world.manifest("run")).refused
        assert words in refused.reason
    written = [entry.event for entry in audit_ledger(tmp_path / "site-1" / "ledger.db").entries]
    assert any(isinstance(event, Refused) for event in written)
    assert not (tmp_path / "site-1" / "secrets").exists()


@pytest.mark.parametrize("kind", ["deal", "confirm", "unmask"])
def test_a_run_without_masks_has_none_of_their_steps(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    world = World(tiny.job(tiny_folder))
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    message = {"deal": pb.Deal, "confirm": pb.Confirm, "unmask": pb.Unmask}[kind]
    asked = {kind: message(manifest_digest=manifest.digest)}
    assert "send Join first" in ask(site, **asked).refused.reason
    joined = join(site, manifest).joined
    assert not joined.session_key
    assert "aggregation.kind='none'" in ask(site, **asked).refused.reason


# What is summed.


def test_the_sum_of_whole_sites_is_the_mean_of_what_they_send_unmasked(
    tiny_folder: Path, tmp_path: Path
) -> None:
    seeds = {"noise": 5}  # the same noise in both
    plain = World(tiny.job(tiny_folder, seeds=seeds))
    sites = MaskedSites(make_world(tiny_folder, seeds=seeds), tmp_path / "masked")
    roster, following = sites.roster(1), sites.roster(2)
    cohorts = sites.deal(roster)
    masked, dealings = sites.train(cohorts, following=following)
    assert set(dealings) == set(sites.sites)
    for name in sites.sites:  # whatever process answers
        sites.restart(name)
    found = sites.mean(sites.uncover(roster, cohorts, masked))
    expected = plain_mean(plain, tmp_path / "plain", plain.site_names)
    encoding = make_encoding(
        sites.manifest, update_size=sites.update_size, number=1, noise_std=sites.noise_std
    )
    # Each of the three rounds its number to one of two neighbours on the grid, and float32 to 2^-24 of it.
    np.testing.assert_allclose(found, expected, atol=1 / encoding.scale + 1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 100 / encoding.scale
    # One site's words say nothing by themselves: they are no decoded update.
    alone = sites.mean(masked["site-1"], count=1)
    assert np.abs(alone).max() > 5 * np.abs(expected).max()


def test_the_round_is_charged_before_its_noise_is_drawn(
    sites: MaskedSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged = []
    cohorts = sites.deal(sites.roster())

    def source(*_what: object) -> NoiseSource:
        charged.append(len(charges(sites.homes / "site-1")))
        return keyed_source(0, len(charged))

    monkeypatch.setattr("client.site.fresh_entropy", source)
    sites.ask("site-1", "trained", train=sites.train_request(cohorts["site-1"]))
    assert charged
    assert set(charged) == {1}


def test_metrics_are_summed_under_the_same_masks(tiny_folder: Path, tmp_path: Path) -> None:
    sites = MaskedSites(make_world(tiny_folder, metrics={"epsilon": 1.0}), tmp_path)
    roster = sites.roster()
    cohorts, masked = sites.deal(roster), {}
    for name, cohort in cohorts.items():
        request = sites.evaluate_request(cohort)
        evaluated = sites.ask(name, "evaluated", evaluate=request)
        assert (evaluated.right, evaluated.examples) == (0, 0)
        masked[name] = METRICS_RING.unpack(evaluated.masked, size=2)
        assert "replay" in ask(sites.sites[name], evaluate=request).refused.reason
        assert [charge.purpose for charge in charges(sites.homes / name)] == ["metrics"]
    total = sites.uncover(roster, cohorts, masked, ring=METRICS_RING)
    right, examples = map(int, METRICS_RING.centred(total))
    assert examples == sum(sites.world.sizes.values())
    # Three draws of Laplace noise of scale 1, in units of 2^-30: beyond 40 in all once in e^-30.
    assert -40 < right / 2**30 < examples + 40


def test_metrics_that_could_not_leave_are_not_charged(tiny_folder: Path, tmp_path: Path) -> None:
    sites = MaskedSites(make_world(tiny_folder, metrics={"epsilon": 1.0}), tmp_path)
    request = sites.evaluate_request(sites.deal(sites.roster())["site-1"])
    request.cohort.dealt[1].sealed = bytes(80)
    assert "sealed" in ask(sites.sites["site-1"], evaluate=request).refused.reason
    assert not charges(tmp_path / "site-1")


def test_homes_hold_what_is_secret_for_their_owner_alone(sites: MaskedSites) -> None:
    home = Home(sites.homes / "site-1")
    path = home.secrets_path(sites.manifest)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    forgetful: Site = sites.world.site("site-2", home=sites.homes / "other", forgetful=True)
    forgetful._peers = lambda: {"site-2": forgetful.own.identity().public}
    assert join(forgetful, sites.manifest).HasField("joined")
    assert not (sites.homes / "other" / "secrets").exists()
