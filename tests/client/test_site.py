"""A site answers or refuses, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.custody.home import Home
from client.site import Site
from privacy.errors import LedgerError, PrivacyUnitError
from protocol.messages.confide_pb2 import Join, Reply, Request
from protocol.messages.vector import from_bytes, to_bytes
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges, epsilon, join, train


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    return world.site("site-1", home=tmp_path / "site-1")


def test_a_site_joins_and_trains(world: World, site: Site) -> None:
    manifest = world.manifest("run")
    assert join(site, manifest).joined.manifest_digest == manifest.digest
    reply = train(site, manifest, world)
    assert (reply.site, reply.trained.round) == ("site-1", 1)
    update = from_bytes(reply.trained.update, size=world.adapted.layout.update_size)
    assert update.any()
    assert 0 < epsilon(reply) < 8.0


def test_spending_adds_up_to_the_plan_and_no_further(world: World, site: Site) -> None:
    manifest = world.manifest("run")
    join(site, manifest)
    spent = [epsilon(train(site, manifest, world, number)) for number in (1, 2, 3)]
    assert spent == sorted(spent)
    assert 7.5 < spent[-1] <= 8.0
    refused = train(site, manifest, world, 3).refused
    assert refused.budget_spent
    assert "planned for 6 steps here and has taken 6" in refused.reason


def test_fresh_noise_differs_each_time(world: World, site: Site) -> None:
    manifest = world.manifest("run")
    join(site, manifest)
    first, second = (train(site, manifest, world).trained.update for _ in range(2))
    assert first != second


def test_another_process_goes_on_with_the_run(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    before = world.site("site-1", home=tmp_path)
    join(before, manifest)
    train(before, manifest, world, 1)
    after = world.site("site-1", home=tmp_path)
    assert epsilon(train(after, manifest, world, 2)) > 0
    train(after, manifest, world, 3)
    assert train(after, manifest, world, 3).refused.budget_spent


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_digest": "0" * 64}, "the model differs"),
        ({"layout_digest": "0" * 64}, "layout differs"),
        ({"labels": ("no", "maybe")}, "the labels differ"),
        ({"labels": ("yes", "no")}, "in this order"),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    world: World, site: Site, change: dict[str, object], reason: str
) -> None:
    refused = join(site, replace(world.manifest("run"), **change)).refused
    assert reason in refused.reason
    assert "has not joined" in train(site, world.manifest("run"), world).refused.reason


def test_predictable_noise_is_refused_outside_a_simulation(
    world: World, site: Site, tiny_folder: Path
) -> None:
    manifest = replace(world.manifest("run"), job=tiny.job(tiny_folder, seeds={"noise": 1}))
    assert "protects nobody" in join(site, manifest).refused.reason


def test_training_before_joining_is_refused(world: World, site: Site) -> None:
    assert "send Join first" in train(site, world.manifest("run"), world).refused.reason


@pytest.mark.parametrize(
    ("number", "change", "reason"),
    [
        (0, {}, "from 1 to 3, got 0"),
        (4, {}, "from 1 to 3, got 4"),
        (1, {"manifest_digest": b"\0" * 32}, "has not joined"),
        (1, {"adapter": b""}, "bytes, got 0"),
        (1, {"adapter": b"\0" * 4}, "bytes, got 4"),
    ],
)
def test_an_odd_round_is_refused_and_costs_nothing(
    world: World, tmp_path: Path, number: int, change: dict[str, bytes], reason: str
) -> None:
    site = world.site("site-1", home=tmp_path)
    manifest = world.manifest("run")
    join(site, manifest)
    assert reason in train(site, manifest, world, number, **change).refused.reason
    assert not charges(tmp_path)


def test_an_adapter_that_is_not_finite_is_refused_and_costs_nothing(world: World, tmp_path: Path) -> None:
    site = world.site("site-1", home=tmp_path)
    manifest = world.manifest("run")
    join(site, manifest)
    adapter = np.full_like(world.initial_adapter, np.nan)
    assert "NaN" in train(site, manifest, world, adapter=to_bytes(adapter)).refused.reason
    assert not charges(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xff", b"", b"hello"])
def test_bytes_that_are_no_request_are_refused(site: Site, content: bytes) -> None:
    assert Reply.FromString(site.answer(content)).refused.reason


def test_a_site_that_is_too_small_for_the_batch_is_refused_with_the_numbers(
    world: World, site: Site, tiny_folder: Path
) -> None:
    job = tiny.job(tiny_folder, training={"batch_size": 500})
    refused = join(site, replace(world.manifest("run"), job=job)).refused
    assert "batch_size=500" in refused.reason
    assert refused.exit_code == 2


def test_a_site_that_refused_to_join_does_not_train(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PrivacyUnitError("tokens are counted as examples")

    world = World(world.job)  # whose model was not checked yet
    manifest, site = world.manifest("run"), world.site("site-1", home=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("simulation.shared_work.check_privacy_unit", refuse)
        assert "tokens are counted" in join(site, manifest).refused.reason
    assert "has not joined" in train(site, manifest, world).refused.reason


def test_two_processes_of_one_site_share_one_count(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    sites = [world.site("site-1", home=tmp_path) for _ in range(2)]
    for one in sites:
        join(one, manifest)
    spent = [epsilon(train(sites[number % 2], manifest, world, number)) for number in (1, 2, 3)]
    assert spent[0] < spent[1] < spent[2]
    assert all(train(one, manifest, world, 3).refused.budget_spent for one in sites)


@pytest.mark.parametrize("left", [(), ("ledger.head",)], ids=["all of it", "the database"])
def test_a_lost_ledger_is_not_a_fresh_start(world: World, tmp_path: Path, left: tuple[str, ...]) -> None:
    manifest = world.manifest("run")
    before = world.site("site-1", home=tmp_path)
    join(before, manifest)
    train(before, manifest, world)
    for path in tmp_path.glob("ledger.*"):
        if path.name not in left:
            path.unlink()
    after = world.site("site-1", home=tmp_path)
    assert "cannot use its ledger" in train(after, manifest, world, 2).refused.reason
    assert "cannot use its ledger" in join(after, manifest).refused.reason
    with pytest.raises(LedgerError, match="is lost"):
        Home(tmp_path).open_ledger("site-1", Home(tmp_path).identity())


def test_what_a_site_says_on_joining_does_not_depend_on_its_examples(world: World, tmp_path: Path) -> None:
    """A refusal, or none, is a release. Here all examples are the same one, of one label."""
    manifest = world.manifest("run")
    plain = world.site("site-1", home=tmp_path / "plain")
    odd = world.site("site-1", home=tmp_path / "odd")
    examples = odd._host.materials.examples
    alike = examples.take(np.zeros(len(examples), np.int64))
    content = Request(join=Join(manifest=manifest.content)).SerializeToString()
    # The digests are those of the examples that each has; the labels too.
    host = odd._host
    odd._host = replace(host, members=host.members[:1], materials=replace(host.materials, examples=alike))
    answers = [Reply.FromString(site.answer(content)) for site in (plain, odd)]
    for answer in answers:
        answer.joined.public_key = b""  # each home has its own
    assert answers[0] == answers[1]


def test_an_unforeseen_error_tells_nothing(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.manifest("run")
    join(site, manifest)

    def quote(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("cannot multiply 'patient 17 has ...'")

    monkeypatch.setattr(world.trainer, "train", quote)
    assert train(site, manifest, world).refused.reason == "the site failed; its own log says how"


def test_a_full_disk_is_named_and_nothing_is_trained(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    manifest = world.manifest("run")
    join(site, manifest)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        monkeypatch.setattr(world.trainer, "train", None)
        assert "cannot use its ledger" in train(site, manifest, world).refused.reason
    assert "No space left on device" in caplog.text
