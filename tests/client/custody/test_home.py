"""A site's home: its key, its approvals, its ledger, whatever process opens it."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import client.custody.home
from client.agent.mailbox import Mailbox
from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection
from client.site import Site
from privacy.errors import KeyFileError, LedgerError, PolicyFileError, UserError
from privacy.identity import Identity
from privacy.ledger.entries import Approved, Closed, Event, Rebudgeted
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import Header
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import approve, join, train

KEY = Identity.generate()


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


def write_policy(path: Path, *, epsilon: float = 24.0, delta: float = 0.01, **rules: Any) -> Home:
    home = Home(path)
    budget = BudgetSection(epsilon=epsilon, delta=delta)
    home.write_policy(Policy(budget=budget, rules=RulesSection.model_validate(rules)))
    return home


def taken(reply: Reply) -> int:
    """The steps that a receipt counts; the refusal's reason if there is none."""
    assert reply.WhichOneof("kind") == "trained", reply.refused.reason
    return int(json.loads(reply.trained.receipt.content)["taken"])


def events(home: Home, kind: type[Any]) -> list[Event]:
    return [e.event for e in audit_ledger(home.ledger_path).entries if isinstance(e.event, kind)]


def trained_home(
    path: Path, world: World, *, rounds: int = 1, **policy: Any
) -> tuple[Home, Site, Manifest]:
    """A home with a run that took some of its three rounds."""
    home, manifest = write_policy(path, **policy), world.manifest("run")
    site = world.site("site-1", home=path)
    assert join(site, manifest).joined.manifest_digest == manifest.digest
    for number in range(1, rounds + 1):
        taken(train(site, manifest, world, number))
    return home, site, manifest


def test_the_key_is_its_owners_alone_and_stays_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "site-1")
    public = home.identity().public
    assert stat.S_IMODE((home.path / "identity.key").stat().st_mode) == 0o600
    assert Home(home.path).identity().public == public


def test_all_that_a_home_holds_is_its_owners_alone(
    world: World, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "sites" / "site-1"
        home, site, manifest = trained_home(path, world)
        home.write_policy(home.read_policy().model_copy(update={"rules": RulesSection(approval="manual")}))
        assert join(site, replace(manifest, run="waits")).HasField("refused")
        # Under masks, so that it has secrets and other sites.
        masked = World(tiny.job(tiny_folder, aggregation={"kind": "masks"}))
        other = masked.site("site-2", home=path.with_name("site-2"))
        assert join(other, masked.manifest("run")).HasField("joined")
    finally:
        os.umask(before)
    written = [path, *path.rglob("*"), other._home.path, *other._home.path.rglob("*")]
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in written}
    assert {"site.toml", "ledger.head", "ledger.lock", "manifests", "pending", "secrets"} <= modes.keys()
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_a_ledgers_key_is_never_made_anew(world: World, tmp_path: Path) -> None:
    home, _, manifest = trained_home(tmp_path, world)
    (tmp_path / "identity.key").unlink()
    with pytest.raises(KeyFileError, match="no key at"):
        home.identity()
    assert join(world.site("site-1", home=tmp_path), manifest).HasField("refused")
    assert not (tmp_path / "identity.key").exists()


def test_another_key_or_name_does_not_open_the_ledger(world: World, tmp_path: Path) -> None:
    home, _, manifest = trained_home(tmp_path / "one", world)
    with pytest.raises(LedgerError, match="of site site-1, not of site-2"):
        home.open_ledger("site-2", home.identity())
    other = Home(tmp_path / "two").identity()
    with pytest.raises(LedgerError, match="this site's key did not sign it"):
        home.open_ledger("site-1", other)
    (tmp_path / "two" / "identity.key").rename(tmp_path / "one" / "identity.key")
    again = world.site("site-1", home=home.path)
    assert "cannot use its ledger" in train(again, manifest, world, 2).refused.reason
    with pytest.raises(LedgerError, match="this site's key did not sign it"):
        home.close_run("run")
    assert [plan.taken for plan in audit_ledger(home.ledger_path).plans] == [2]


@pytest.mark.parametrize("kept", [False, True], ids=["no manifest yet", "a manifest"])
def test_a_new_ledger_is_begun_only_where_none_can_be_missed(
    world: World, tmp_path: Path, kept: bool
) -> None:
    home = write_policy(tmp_path)
    if kept:
        home.keep(world.manifest("run"), b"signature", charged={})
        with pytest.raises(LedgerError, match=r"has manifests and no ledger\.db; bring it back"):
            home.open_ledger("site-1", home.identity())
        assert not home.ledger_path.exists()
    else:
        home.open_ledger("site-1", home.identity()).close()
        assert home.site_name() == "site-1"


def test_a_manifest_is_kept_with_its_signature_for_other_processes(world: World, tmp_path: Path) -> None:
    home, manifest = Home(tmp_path), world.manifest("run")
    assert home.manifest(manifest.digest) is None
    home.keep(manifest, b"signature", charged={})
    home.keep(manifest, b"another, later", charged={})
    assert Home(tmp_path).manifest(manifest.digest) == (manifest, b"signature")
    assert list(home.manifests()) == [manifest]
    assert list(home.manifests(pending=True)) == []


def test_nothing_is_approved_that_does_not_wait(world: World, tmp_path: Path) -> None:
    home, manifest = write_policy(tmp_path, approval="manual"), world.manifest("run")
    with pytest.raises(UserError, match="run run that waits for approval, found none; no run waits"):
        approve(home, "run")
    join(world.site("site-1", home=tmp_path), manifest)
    with pytest.raises(UserError, match="run ru that waits for approval, found none; run waits"):
        approve(home, "ru")
    assert approve(home, "run") == manifest
    with pytest.raises(UserError, match="found none; no run waits"):
        approve(home, "run")
    assert events(home, Approved) == [Approved(run="run", manifest=manifest.digest.hex())]


def test_of_two_that_wait_under_one_name_none_is_approved(world: World, tmp_path: Path) -> None:
    """Another coordinator may have sent the second: a name does not say which is meant."""
    home, manifest = write_policy(tmp_path, approval="manual"), world.manifest("run")
    site = world.site("site-1", home=tmp_path)
    other = replace(manifest, cohort=9)
    for one in (manifest, other, world.manifest("else")):
        assert "waits for the custodian" in join(site, one).refused.reason
    with pytest.raises(UserError, match="2 manifests of run run wait") as caught:
        approve(home, "run")
    assert manifest.digest.hex() in str(caught.value)
    assert other.digest.hex() in str(caught.value)
    assert not events(home, Approved)
    (tmp_path / "pending" / f"{other.digest.hex()}.json").unlink()
    assert approve(home, "run") == manifest
    assert join(site, manifest).HasField("joined")
    assert "waits for the custodian" in join(site, other).refused.reason


def test_a_running_site_sees_what_another_process_approves(world: World, tmp_path: Path) -> None:
    write_policy(tmp_path, approval="manual")
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    assert "rules.approval" in join(site, manifest).refused.reason
    approve(Home(tmp_path), "run")
    assert join(site, manifest).joined.manifest_digest == manifest.digest
    assert taken(train(site, manifest, world)) == 2


def by_order(home: Home) -> float:
    """ε by the order's rule alone, from what the ledger says each step cost (proposition 12)."""
    audit = audit_ledger(home.ledger_path)
    (plan,), budget = audit.plans, audit.budget
    begun = audit.entries[plan.entry - 1].event
    steps = plan.taken if plan.closed else plan.plan.steps
    loss = begun.cost.renyi * 1e-9 * steps / plan.plan.steps
    alpha, delta = budget.order, budget.delta / 2
    return loss + math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)


def test_a_closed_run_gives_back_steps_by_order_only(world: World, tmp_path: Path) -> None:
    """What counts is the lower of the two rules, and by plan a run that took a step counts whole."""
    # The run's δ is more than half of this budget's, so only the order can admit it.
    home, *_ = trained_home(tmp_path / "by order", world, epsilon=50.0, delta=1.5e-3)
    before = audit_ledger(home.ledger_path).datasets[0].epsilon
    assert before == pytest.approx(by_order(home), abs=1e-6)
    left = home.close_run("run")
    assert left == pytest.approx(by_order(home), abs=1e-6)
    assert left < before - 1.0
    assert left == audit_ledger(home.ledger_path).datasets[0].epsilon

    # Here it counts by plan, at most ε = 8, and two of three rounds by order are more than that.
    home, *_ = trained_home(tmp_path / "by plan", world, rounds=2, epsilon=8.0, delta=2e-3)
    before = audit_ledger(home.ledger_path).datasets[0].epsilon
    assert 7.5 < before <= 8.0
    assert home.close_run("run") == before
    assert by_order(home) > before


def test_a_closed_run_is_over_for_every_process(world: World, tmp_path: Path) -> None:
    home, site, manifest = trained_home(tmp_path, world)
    home.close_run("run")
    for one in (site, world.site("site-1", home=tmp_path)):
        refused = train(one, manifest, world, 2).refused
        assert "has ended" in refused.reason
        assert refused.budget_spent
    assert "cannot use its ledger" in join(site, replace(manifest, cohort=2)).refused.reason
    home.close_run("run")  # once more changes nothing
    assert len(events(home, Closed)) == 1


def test_only_a_run_that_began_is_closed(world: World, tmp_path: Path) -> None:
    home, *_ = trained_home(tmp_path, world)
    with pytest.raises(UserError, match="run ru began no plan that could end; run did"):
        home.close_run("ru")
    empty = Home(tmp_path / "nowhere")
    with pytest.raises(LedgerError, match="no ledger at"):
        empty.close_run("run")
    assert not empty.path.exists()


def test_closing_a_run_whose_data_left_without_noise_promises_nothing(
    world: World, tmp_path: Path, tiny_folder: Path
) -> None:
    home, site, manifest = trained_home(tmp_path, world, mechanisms=["gaussian", "none"])
    job = tiny.job(tiny_folder, privacy={"mechanism": "none"})
    bare = replace(manifest, run="bare", job=job)
    assert join(site, bare).HasField("joined")
    assert taken(train(site, bare, world)) == 2
    assert home.close_run("run") == math.inf


def test_has_released_counts_what_was_reserved(world: World, tmp_path: Path) -> None:
    assert not Home(tmp_path / "nowhere").has_released("run")
    home, site, manifest = trained_home(tmp_path / "one", world, rounds=0)
    assert not home.has_released("run")  # a data set is registered, and a plan was found to fit
    train(site, manifest, world)
    assert home.has_released("run")
    home.close_run("run")
    assert home.has_released("run")


def test_a_release_without_noise_is_one_too(world: World, tmp_path: Path, tiny_folder: Path) -> None:
    home = write_policy(tmp_path, mechanisms=["none"])
    site = world.site("site-1", home=tmp_path)
    manifest = replace(world.manifest("run"), job=tiny.job(tiny_folder, privacy={"mechanism": "none"}))
    join(site, manifest)
    assert not home.has_released("run")
    train(site, manifest, world)
    assert home.has_released("run")


def test_a_lowered_budget_ends_a_run_that_has_begun(world: World, tmp_path: Path) -> None:
    home, _, manifest = trained_home(tmp_path, world)
    write_policy(tmp_path, epsilon=5.0)
    again = world.site("site-1", home=tmp_path)
    refused = train(again, manifest, world, 2).refused
    assert "budget.epsilon_per_run" in refused.reason  # one run may not ask for more than all may have
    ledger = home.open_ledger("site-1", home.identity())
    ledger.close()
    assert events(home, Rebudgeted) == [Rebudgeted(epsilon=5.0)]
    assert [plan.taken for plan in audit_ledger(home.ledger_path).plans] == [2]


def test_a_budget_lowered_below_what_is_spent_refuses_the_next_round(world: World, tmp_path: Path) -> None:
    """Two runs of ε = 8 have spent more than 9 together: neither goes on."""
    _, site, first = trained_home(tmp_path, world)
    second = world.manifest("second")
    join(site, second)
    taken(train(site, second, world))
    home = write_policy(tmp_path, epsilon=9.0)
    again = world.site("site-1", home=tmp_path)
    for manifest in (first, second):
        refused = train(again, manifest, world, 2).refused
        assert refused.reason == "the data's budget at this site has no room for the run"
        assert refused.budget_spent
    assert events(home, Rebudgeted) == [Rebudgeted(epsilon=9.0)]
    assert [plan.taken for plan in audit_ledger(home.ledger_path).plans] == [2, 2]


def test_a_raised_budget_lets_the_next_run_begin(world: World, tmp_path: Path) -> None:
    home, site, _ = trained_home(tmp_path, world, epsilon=8.0)
    second = world.manifest("second")
    assert "has no room" in join(site, second).refused.reason
    write_policy(tmp_path, epsilon=24.0)
    again = world.site("site-1", home=tmp_path)
    assert join(again, second).joined.manifest_digest == second.digest
    assert taken(train(again, second, world)) == 2
    assert events(home, Rebudgeted) == [Rebudgeted(epsilon=24.0)]
    assert audit_ledger(home.ledger_path).budget.epsilon == 24.0


def test_another_delta_is_another_budget(world: World, tmp_path: Path) -> None:
    home, _, manifest = trained_home(tmp_path, world)
    write_policy(tmp_path, delta=0.02)
    with pytest.raises(LedgerError, match=r"begun with delta=0\.01, and is asked for delta=0\.02"):
        home.open_ledger("site-1", home.identity())
    again = world.site("site-1", home=tmp_path)
    assert "cannot use its ledger" in train(again, manifest, world, 2).refused.reason


def test_a_homes_peers_are_read_anew_each_time(tmp_path: Path) -> None:
    """Whoever provisions hands new ones over while the site runs."""
    home = Home(tmp_path)
    with pytest.raises(PolicyFileError, match=r"no peers at .*peers\.toml"):
        home.peers()
    for key in ("ab" * 32, "cd" * 32):
        (tmp_path / "peers.toml").write_text(f'[peers]\nnorth = "{key}"\n')
        assert home.peers() == {"north": bytes.fromhex(key)}


def test_each_run_has_secrets_of_its_own(world: World, tmp_path: Path) -> None:
    home, manifest = Home(tmp_path), world.manifest("run")
    path = home.secrets_path(manifest)
    assert path == tmp_path / "secrets" / f"{manifest.digest.hex()}.json"
    assert home.secrets_path(replace(manifest, run="other")) != path
    # To ask for the place makes nothing there.
    assert list(tmp_path.iterdir()) == []


def in_home(home: Home, *folders: str) -> dict[str, int]:
    """How many files each folder of a home has."""
    return {folder: len(list((home.path / folder).glob("*"))) for folder in folders}


def test_runs_that_were_charged_nothing_make_room_and_the_others_stay(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.custody.home, "MOST_UNCHARGED", 3)
    home, mailbox = Home(tmp_path), Mailbox(tmp_path / "outbox", site="s", identity=KEY, coordinator=b"")
    made = [replace(world.manifest("run"), run=name) for name in ("a", "b", "c", "d", "e", "f")]
    # Under the name of a charged run, another manifest that was charged nothing.
    made.insert(1, replace(made[0], cohort=9))
    charged = {made[0].digest.hex(): "a"}
    for number, manifest in enumerate(made):
        header = Header(
            run=manifest.run,
            round=0,
            sender="coordinator",
            receiver="s",
            counter=number,
            sent=0.0,
            expires=0.0,
            payload="",
        )
        mailbox.keep(header, b"joined", kind="joined", counter=number)
        home.secrets_path(manifest).parent.mkdir(exist_ok=True)
        home.secrets_path(manifest).write_text("{}")
        home.keep(manifest, b"signature", charged=charged)
        # A clock that was ahead for a while makes none of them young.
        ahead = 10**9 if number == 3 else 0
        os.utime(home._manifest_path(manifest.digest), (number + ahead * 4, number + ahead * 4))
    assert [manifest.run for manifest in home.manifests()].count("a") == 1
    assert sorted(manifest.run for manifest in home.manifests()) == ["a", "d", "e", "f"]
    assert in_home(home, "manifests", "secrets", "outbox") == {"manifests": 8, "secrets": 4, "outbox": 4}
    # What a charged run was told stays, whatever else was asked under its name.
    assert mailbox.kept(replace(header, run="a", counter=9)) == b"joined"
    assert mailbox.kept(replace(header, run="b", counter=9)) is None
