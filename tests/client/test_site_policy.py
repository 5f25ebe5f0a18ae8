"""What the custodian allows holds for every run and every round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.custody.home import Home
from client.site import Site
from privacy.errors import UserError
from privacy.identity import Identity
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.messages.confide_pb2 import Join
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import approve, ask, charges, epsilon, join, train


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    return world.site("site-1", home=tmp_path / "site-1")


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        ({"privacy": {"epsilon": 90.0}}, "budget.epsilon_per_run"),
        ({"privacy": {"mechanism": "none"}}, "rules.mechanisms"),
        ({"training": {"rounds": 99}}, None),
    ],
    ids=["more epsilon", "no noise", "more rounds"],
)
@pytest.mark.parametrize("name", ["run", "another-run"])
def test_no_second_manifest_goes_beyond_the_budget(
    world: World,
    tmp_path: Path,
    tiny_folder: Path,
    section: dict[str, dict[str, object]],
    rule: str | None,
    name: str,
) -> None:
    site = world.site("site-1", home=tmp_path)
    manifest = world.manifest("run")
    join(site, manifest)
    train(site, manifest, world)
    looser = replace(manifest, run=name, job=tiny.job(tiny_folder, **section))

    reason = join(site, looser).refused.reason
    expected = rule or ("cannot use its ledger" if name == "run" else "has no room for the run")
    assert expected in reason
    assert "has not joined" in train(site, looser, world, 2).refused.reason

    assert epsilon(train(site, manifest, world, 2)) <= 8.0
    refusals = [
        e.event for e in audit_ledger(tmp_path / "ledger.db").entries if isinstance(e.event, Refused)
    ]
    assert [(refusal.run, refusal.manifest) for refusal in refusals] == [(name, looser.digest.hex())]
    assert refusals[0].rule == (rule or ("LedgerError" if name == "run" else "OverdrawnError"))


def test_a_coordinator_is_not_told_what_is_left(world: World, site: Site) -> None:
    first, second = (world.manifest(name) for name in ("first", "second"))
    join(site, first)
    train(site, first, world)

    refused = join(site, second).refused

    assert refused.reason == "the data's budget at this site has no room for the run"
    assert refused.budget_spent


def test_two_runs_share_one_budget(world: World, tmp_path: Path) -> None:
    """Three times the budget of one run holds several, and the ledger counts them together."""
    site = world.site("site-1", home=tmp_path)
    policy = Home(tmp_path).read_policy()
    budget = policy.budget.model_copy(update={"epsilon": 24.0, "delta": 0.01})
    Home(tmp_path).write_policy(policy.model_copy(update={"budget": budget}))
    accepted = 0
    for number in range(20):
        manifest = world.manifest(f"run-{number}")
        if join(site, manifest).HasField("refused"):
            break
        train(site, manifest, world)
        accepted += 1
    assert accepted >= 3
    assert audit_ledger(tmp_path / "ledger.db").datasets[0].epsilon <= 24.0
    # Refused for good, and the runs that were accepted go on.
    assert join(site, world.manifest("one-more")).refused.budget_spent
    assert epsilon(train(site, world.manifest("run-0"), world, 2)) <= 8.0


def test_a_run_waits_for_its_approval(world: World, tmp_path: Path) -> None:
    site, home = world.site("site-1", home=tmp_path), Home(tmp_path)
    policy = home.read_policy()
    rules = policy.rules.model_copy(update={"approval": "manual"})
    home.write_policy(policy.model_copy(update={"rules": rules}))
    manifest = world.manifest("run")

    assert "rules.approval: run run waits for the custodian" in join(site, manifest).refused.reason
    assert "has not joined" in train(site, manifest, world).refused.reason
    with pytest.raises(UserError, match="expected one manifest of run other"):
        approve(home, "other")
    assert approve(home, "run") == manifest
    assert join(site, manifest).joined.manifest_digest == manifest.digest
    assert epsilon(train(site, manifest, world)) > 0
    # The approval is for this manifest and no other of the same name.
    assert "waits" in join(site, replace(manifest, cohort=2)).refused.reason


def test_a_policy_that_tightens_holds_for_the_next_process(world: World, tmp_path: Path) -> None:
    site, home, manifest = world.site("site-1", home=tmp_path), Home(tmp_path), world.manifest("run")
    join(site, manifest)
    rules = home.read_policy().rules.model_copy(update={"least_cohort": 4})
    home.write_policy(home.read_policy().model_copy(update={"rules": rules}))
    again = world.site("site-1", home=tmp_path)
    assert "rules.least_cohort: expected at least 4" in train(again, manifest, world).refused.reason
    assert not charges(tmp_path)


def test_a_changed_policy_holds_from_the_next_round_on(world: World, tmp_path: Path) -> None:
    """The custodian edits site.toml while the site runs: nothing has to be started again."""
    site, home = world.site("site-1", home=tmp_path), Home(tmp_path)
    policy, manifest = home.read_policy(), world.manifest("run")
    join(site, manifest)
    train(site, manifest, world, 1)

    def allow(section: str, **values: object) -> None:
        changed = getattr(policy, section).model_copy(update=values)
        home.write_policy(policy.model_copy(update={section: changed}))

    allow("rules", mechanisms=["laplace"])
    assert "rules.mechanisms" in train(site, manifest, world, 2).refused.reason
    allow("rules", approval="manual")
    assert "rules.approval" in train(site, manifest, world, 2).refused.reason
    allow("budget", epsilon=7.9, epsilon_per_run=None)
    assert "epsilon_per_run" in train(site, manifest, world, 2).refused.reason
    assert len(charges(tmp_path)) == 1
    allow("budget", epsilon=9.0)
    assert epsilon(train(site, manifest, world, 2)) > 0
    assert audit_ledger(tmp_path / "ledger.db").budget.epsilon == 9.0
    # What was raised is not enough for a second run, and no more is taken than the file says.
    assert join(site, world.manifest("second")).refused.budget_spent


def test_a_manifest_that_was_changed_on_the_disk_is_not_trained(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    join(world.site("site-1", home=tmp_path), manifest)
    path = tmp_path / "manifests" / f"{manifest.digest.hex()}.json"
    path.write_bytes(replace(manifest, cohort=1).content)
    refused = train(world.site("site-1", home=tmp_path), manifest, world).refused
    assert "was changed" in refused.reason


def test_only_the_pinned_coordinator_is_answered(world: World, tmp_path: Path) -> None:
    coordinator, other = Identity.generate(), Identity.generate()
    site = world.site("site-1", home=tmp_path, coordinator=coordinator.public)
    manifest = world.manifest("run")
    for signature in (
        b"",
        other.sign("manifest", manifest.content),
        coordinator.sign("m", manifest.content),
    ):
        refused = ask(site, join=Join(manifest=manifest.content, signature=signature)).refused
        assert "rules.coordinator" in refused.reason
    # What anyone could have sent leaves no mark that could fill the disk.
    assert len(audit_ledger(tmp_path / "ledger.db").entries) == 1
    signature = coordinator.sign("manifest", manifest.content)
    joined = ask(site, join=Join(manifest=manifest.content, signature=signature)).joined
    assert joined.manifest_digest == manifest.digest
