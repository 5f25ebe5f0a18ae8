"""A home is restored from an old copy between two runs: the next join finds out."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client.custody.policy import BudgetSection, Policy, RulesSection, policy_toml
from privacy.identity import Identity
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.receipt import Receipt, SignedReceipt, sign_receipt
from protocol.job.job import Job
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from runs import receipts
from runs.asked_folder import ReceiptsOf
from runs.earlier_receipts import earlier_receipts
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import ask
from tests.server.runs import make_run

VICTIM = "site-2"


class Homes:
    """Three sites whose homes outlast runs, with room for several."""

    def __init__(self, folder: Path, tiny_folder: Path) -> None:
        self.runs, self.homes, self.copy = folder / "runs", folder / "homes", folder / "copy"
        self.job: Job = tiny.job(tiny_folder, training={"rounds": 1}, federation={"min_sites": 2})
        budget = BudgetSection(epsilon=40.0, delta=0.02)
        self.policy = folder / "site.toml"
        self.policy.write_text(policy_toml(Policy(budget=budget, rules=RulesSection())))

    def run(self, name: str) -> Run:
        policy = None if self.homes.exists() else self.policy
        return simulate(self.job, runs=self.runs, name=name, policy=policy, homes=self.homes)

    def set_back(self) -> None:
        shutil.rmtree(self.homes / VICTIM)
        shutil.copytree(self.copy, self.homes / VICTIM)

    def runs_of(self, site: str) -> list[str]:
        return [plan.run for plan in audit_ledger(self.homes / site / "ledger.db").plans]


@pytest.fixture
def homes(tmp_path: Path, tiny_folder: Path) -> Homes:
    """After two runs, with a copy of the victim's home from between them."""
    found = Homes(tmp_path, tiny_folder)
    found.run("first")
    shutil.copytree(found.homes / VICTIM, found.copy)
    found.run("second")
    return found


@pytest.mark.exhaustive
def test_a_home_from_before_the_last_run_takes_no_part(homes: Homes) -> None:
    homes.set_back()
    run = homes.run("third")
    assert list(run.epsilon) == ["site-1", "site-3"]
    assert homes.runs_of(VICTIM) == ["first"]
    log = (run.folder / "run.log").read_text()
    assert f"{VICTIM} refused: the ledger has no entry" in log
    assert "an older copy of the site's home was put back" in log


@pytest.mark.exhaustive
def test_without_receipts_nobody_notices(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control, and what is documented: a coordinator that shows none is as good as another one."""
    monkeypatch.setattr(receipts, "earlier_receipts", lambda _folder: {})
    homes.set_back()
    assert list(homes.run("third").epsilon) == ["site-1", VICTIM, "site-3"]
    assert homes.runs_of(VICTIM) == ["first", "third"]


@pytest.mark.exhaustive
def test_homes_that_are_whole_go_on(homes: Homes) -> None:
    """The control: a copy of the newest home is as good as the home."""
    shutil.rmtree(homes.copy)
    shutil.copytree(homes.homes / VICTIM, homes.copy)
    homes.set_back()
    assert list(homes.run("third").epsilon) == ["site-1", VICTIM, "site-3"]


def test_a_site_believes_its_own_signature_alone(tiny_folder: Path, tmp_path: Path) -> None:
    world = World(tiny.job(tiny_folder))
    manifest, site = world.manifest("run"), world.site("site-1", home=tmp_path / "home")
    ask(site, join=pb.Join(manifest=manifest.content))
    own = Identity.load(tmp_path / "home" / "identity.key")
    train = pb.Train(manifest_digest=manifest.digest, round=1, adapter=to_bytes(world.initial_adapter))
    true = site.prepare(pb.Request(train=train)).receipt
    lost = replace(true, head="00" * 32)

    def joins(identity: Identity, receipt: Receipt, **changes: bytes) -> pb.Reply:
        signed = sign_receipt(identity, receipt)
        fields = {"content": signed.content, "signature": signed.signature} | changes
        return ask(site, join=pb.Join(manifest=manifest.content, last=pb.Receipt(**fields)))

    assert joins(own, true).HasField("joined")
    refused = joins(own, lost).refused
    assert refused.reason == "the site cannot use its ledger; its own log says why"
    # What anyone could have made up stops nobody.
    assert joins(Identity.generate(), lost).HasField("joined")
    assert joins(own, true, content=b"{}").HasField("joined")
    assert joins(own, lost, signature=b"").HasField("joined")


class Made:
    """Runs side by side whose receipts are made up: what is newest is by their files' times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = 1_700_000_000

    def run(self, name: str, homes: Path | None = None) -> RunFolder:
        run = make_run(self.folder / name, records=[])
        if homes is not None:
            homes.mkdir(exist_ok=True)
            (run.path / "sites").symlink_to(homes)
        return run

    def sign(self, run: RunFolder, of: ReceiptsOf, *sites: str) -> None:
        run.keep_public_keys({site: site.encode().ljust(32) for site in sites})
        content = f"{run.path.name} {of}".encode()
        run.save_receipts(of, {site: SignedReceipt(content=content, signature=b"x") for site in sites})
        self.clock += 10
        os.utime(run.receipts_path(of), (self.clock, self.clock))

    def shown(self, run: RunFolder) -> dict[str, str]:
        return {site: kept.content.decode() for site, kept in earlier_receipts(run).items()}


def test_the_newest_of_each_site_is_shown(tmp_path: Path) -> None:
    made = Made(tmp_path)
    first, second, now = made.run("a"), made.run("z"), made.run("m")
    made.sign(second, 1, "north", "south", "east")
    made.sign(first, 1, "north", "south")
    made.sign(first, 2, "north")
    made.sign(first, "metrics", "south")
    made.sign(now, 1, "north", "south", "east")  # the run's own are reminded of in each request
    assert made.shown(now) == {"north": "a 2", "south": "a metrics", "east": "z 1"}
    assert made.shown(first) == {"north": "m 1", "south": "m 1", "east": "m 1"}


def test_other_homes_have_other_sites(tmp_path: Path) -> None:
    made = Made(tmp_path)
    kept, other, federated = made.run("kept", tmp_path / "h"), made.run("o", tmp_path / "i"), made.run("f")
    for run in (kept, other, federated):
        made.sign(run, 1, "north")
    assert made.shown(made.run("next", tmp_path / "h")) == {"north": "kept 1"}
    alone = made.run("alone")
    (alone.path / "sites").mkdir()
    assert made.shown(alone) == {}


def test_what_cannot_be_read_shows_nothing(tmp_path: Path) -> None:
    made = Made(tmp_path)
    broken, whole, now = made.run("broken"), made.run("whole"), made.run("now")
    made.sign(whole, 1, "north")
    made.sign(broken, 1, "north")
    broken.receipts_path(1).write_text("{")
    (tmp_path / "a-file").write_text("no run")
    (tmp_path / "empty").mkdir()
    (whole.path / "receipts" / "notes.json").write_text("{}")
    assert made.shown(now) == {"north": "whole 1"}
