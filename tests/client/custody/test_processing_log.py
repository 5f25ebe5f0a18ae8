"""Records of processing: each entry of a verified ledger is one, and safe to open."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection
from client.custody.processing_log import ProcessingLog, read_processing_log
from confide.log_view import log_csv, log_table
from privacy.errors import LedgerError
from privacy.identity import Identity
from privacy.ledger.entries import Frozen, Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.messages import confide_pb2 as pb
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import ask, train
from tests.confide.test_audit import change_entry
from tests.confide.test_cli import call

COORDINATOR = Identity.generate()


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


def joined(world: World, home: Path, manifest: Manifest) -> pb.Reply:
    signature = COORDINATOR.sign(MANIFEST_PURPOSE, manifest.content)
    return ask(
        world.site("site-1", home=home), join=pb.Join(manifest=manifest.content, signature=signature)
    )


def policy(home: Path, *, approval: str = "automatic") -> None:
    rules = RulesSection.model_validate({"coordinator": COORDINATOR.public.hex(), "approval": approval})
    Home(home).write_policy(Policy(budget=BudgetSection(epsilon=20.0, delta=0.01), rules=rules))


@pytest.fixture
def home(world: World, tmp_path: Path) -> Path:
    """A home in which one run was approved and has taken a round."""
    policy(tmp_path, approval="manual")
    manifest = world.manifest("run")
    assert "waits for the custodian" in joined(world, tmp_path, manifest).refused.reason
    Home(tmp_path).approve(manifest)
    site = world.site("site-1", home=tmp_path)
    signature = COORDINATOR.sign(MANIFEST_PURPOSE, manifest.content)
    ask(site, join=pb.Join(manifest=manifest.content, signature=signature))
    assert train(site, manifest, world).HasField("trained")
    return tmp_path


def record(home: Path) -> ProcessingLog:
    return read_processing_log(home / "ledger.db")


def test_each_entry_is_a_record(home: Path, world: World) -> None:
    found, audit = record(home), audit_ledger(home / "ledger.db")
    assert [line.event for line in found.lines] == [
        "created",
        "registered",
        "refused",
        "approved",
        "begun",
        "released",
    ]
    assert (found.site, found.head, found.complete) == ("site-1", audit.head, True)
    created, registered, refused, approved, begun, released = found.lines
    assert created.remark == "each data set may lose epsilon=20 at delta=0.01"
    assert (registered.data_set, registered.examples, registered.epsilon_lost) == (2, 64, 0.0)
    assert refused.remark is not None
    assert refused.remark.startswith("rules.approval: ")
    assert refused.approval is None
    assert approved.approval == f"by the custodian, entry 4 of {approved.time}"
    assert begun.approval == approved.approval
    assert (begun.run, begun.task, begun.mechanism) == ("run", "sequence-classification", "gaussian")
    assert begun.coordinator == COORDINATOR.public.hex()
    assert begun.model == world.job.model.source
    assert (begun.sums, begun.unit, begun.purpose, begun.steps) == ("none", "example", "training", 6)
    assert begun.epsilon == audit.plans[0].epsilon
    assert begun.delta == pytest.approx(1e-3)
    assert begun.epsilon_lost == released.epsilon_lost == audit.datasets[0].epsilon
    assert (released.round, released.steps, released.fingerprint) == (1, 2, registered.fingerprint)
    assert (released.mechanism, released.unit) == ("gaussian", "example")
    assert released.time.endswith("Z")


def test_a_run_that_nobody_approved_ran_by_the_policy(world: World, tmp_path: Path) -> None:
    policy(tmp_path)
    manifest = world.manifest("run")
    assert joined(world, tmp_path, manifest).HasField("joined")
    train(world.site("site-1", home=tmp_path), manifest, world)
    assert record(tmp_path).lines[-1].approval == "by the policy"


def test_what_the_home_does_not_have_is_left_out(home: Path) -> None:
    """A manifest that was changed, or a policy that pins another key, vouches for nothing."""
    (path,) = (home / "manifests").glob("*.json")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"tiny"', b'"else"'))
    begun = record(home).lines[4]
    assert (begun.run, begun.manifest, begun.model, begun.coordinator) == ("run", path.stem, None, None)
    path.write_bytes(content)
    path.with_suffix(".signature").write_bytes(bytes(64))
    assert record(home).lines[4].coordinator is None
    assert record(home).lines[4].model is not None


def test_nothing_is_written_of_a_ledger_that_does_not_hold(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert change_entry(home, b'"round":1', b'"round":2') == 6
    with pytest.raises(LedgerError, match="entry 6"):
        record(home)
    to = tmp_path / "log.csv"
    assert call(monkeypatch, "audit", "log", home, "--to", to) == 1
    assert "entry 6: " in capfd.readouterr().err
    assert not to.exists()


def test_another_key_is_refused(home: Path) -> None:
    with pytest.raises(LedgerError, match="the ledger is under key"):
        read_processing_log(home / "ledger.db", key="00" * 32)


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_a_formula(home: Path, start: str) -> None:
    place = Home(home)
    ledger = place.open_ledger("site-1", place.identity())
    reason = f"{start}HYPERLINK(0)\n\x1b[2J"
    ledger.record(Refused(run="r", manifest="ab" * 32, rule=f"{start}1", reason=reason))
    ledger.record(Frozen(job=f"{start}job", audit="cd" * 32, reason=reason))
    ledger.close()
    rows = list(csv.DictReader(io.StringIO(log_csv(record(home)), newline="")))
    assert len(rows) == 8
    assert rows[6]["remark"] == f"'{start}1: {start}HYPERLINK(0)\\n\\x1b[2J"
    for row in rows:
        assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert all(cell.isprintable() for cell in row.values())


def test_csv_and_json_say_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("log.csv", "log.json"):
        assert call(monkeypatch, "audit", "log", home, "--to", tmp_path / name) == 0
        assert f"Wrote 6 records of site-1 to {tmp_path / name}" in capfd.readouterr().out
    table = json.loads((tmp_path / "log.json").read_text())
    assert table == json.loads(json.dumps(log_table(record(home))))
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["entry"] for row in rows] == [str(line["entry"]) for line in table["records"]]
    assert float(rows[4]["epsilon"]) == table["records"][4]["epsilon"]
    assert {row["site"] for row in rows} == {"site-1"}
    assert (tmp_path / "log.csv").stat().st_mode & 0o777 == 0o600
    assert call(monkeypatch, "audit", "log", home, "--to", tmp_path / "log.xlsx") == 2
    assert r"ends in .csv or .json" in capfd.readouterr().err
    assert call(monkeypatch, "audit", "log", home) == 0
    told = capfd.readouterr().out
    assert "site-1: 6 records, every signature and total holds" in told
    assert "released 1" in told
    assert max(map(len, told.splitlines())) <= 80
