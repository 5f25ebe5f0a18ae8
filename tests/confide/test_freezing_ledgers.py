"""A claim that is refuted freezes the ledgers that were named; one that holds touches none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.custody.home import Home
from confide.freezing_ledgers import check_and_freeze, homes_to_freeze
from privacy.errors import AuditError, LedgerError
from privacy.ledger.entries import Frozen, Refused, Unfrozen
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job_file import job_toml
from simulation.attack import empirical_audit
from simulation.attack.evidence import evidence, evidence_digest
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges, join, train
from tests.confide.test_cli import call
from tests.simulation.attack.made_up_audit import made_up_audit


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


def freeze(home: Path, tiny_folder: Path, *, lower: float = 9.0) -> None:
    check_and_freeze(made_up_audit(tiny_folder, lower=lower), homes_to_freeze([home]))


def test_a_claim_that_holds_freezes_nothing(world: World, tiny_folder: Path, tmp_path: Path) -> None:
    join(world.site("site-1", home=tmp_path), world.manifest("run"))
    freeze(tmp_path, tiny_folder, lower=2.9)
    assert audit_ledger(tmp_path / "ledger.db").frozen is None
    assert not (tmp_path / "audits").exists()


def test_a_home_without_a_ledger_is_named_before_the_audit(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        homes_to_freeze([tmp_path])


def test_a_frozen_site_refuses_every_run_and_says_why(
    world: World, tiny_folder: Path, tmp_path: Path
) -> None:
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    join(site, manifest)
    assert train(site, manifest, world).HasField("trained")
    with pytest.raises(AuditError, match=rf"shows epsilon >= 9 .*; the ledger at {tmp_path} is frozen"):
        freeze(tmp_path, tiny_folder)
    # The agent has its ledger open, and finds out with the next request.
    for reply in (train(site, manifest, world, 2), join(site, world.manifest("other"))):
        assert "the site's ledger is frozen: an audit refuted" in reply.refused.reason
        assert not reply.refused.budget_spent  # nothing was: a coordinator takes it for what it is
    assert len(charges(tmp_path)) == 1
    refused = [
        e.event for e in audit_ledger(tmp_path / "ledger.db").entries if isinstance(e.event, Refused)
    ]
    assert [(event.run, event.rule) for event in refused] == [
        ("run", "FrozenError"),
        ("other", "FrozenError"),
    ]


def test_from_freeze_to_clearance(
    world: World,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    join(site, manifest)
    assert call(monkeypatch, "site", "unfreeze", tmp_path, "--reason", "x", "--yes") == 2
    assert "the ledger of site-1 is not frozen: there is nothing to clear" in capfd.readouterr().err
    with pytest.raises(AuditError):
        freeze(tmp_path, tiny_folder)
    audit = made_up_audit(tiny_folder, lower=9.0)
    kept = tmp_path / "audits" / f"{evidence_digest(audit)}.json"
    assert kept.read_bytes() == evidence(audit)

    assert call(monkeypatch, "audit", "ledger", tmp_path) == 0
    told = capfd.readouterr().out
    assert "frozen by an audit of job tiny: site-1 claims epsilon=2.991" in told
    assert "Frozen: by entry 3" in told
    assert call(monkeypatch, "budget", tmp_path) == 0
    assert "Frozen: an audit refuted what runs at site-1 claim" in capfd.readouterr().out

    assert call(monkeypatch, "site", "unfreeze", tmp_path, "--yes") == 2
    assert "--reason: expected what was found and mended" in capfd.readouterr().err
    assert (
        call(monkeypatch, "site", "unfreeze", tmp_path, "--yes", "--reason", "a new \x1b[2J version") == 0
    )
    told = capfd.readouterr().out
    assert told.startswith("Entry 3, ")
    assert "frozen by an audit of job tiny" in told
    assert str(kept) in told
    assert told.endswith("Cleared; the ledger keeps that, and spends again\n")

    audited = audit_ledger(tmp_path / "ledger.db")
    decided = [entry.event for entry in audited.entries if isinstance(entry.event, Frozen | Unfrozen)]
    assert [type(event) for event in decided] == [Frozen, Unfrozen]
    assert decided[1] == Unfrozen(entry=3, reason="a new \\x1b[2J version")
    assert train(site, manifest, world).HasField("trained")
    assert call(monkeypatch, "audit", "ledger", tmp_path, "--json") == 0
    table = json.loads(capfd.readouterr().out)
    assert table["frozen"] is None
    assert [row["entry"] for row in table["freezes"]] == [3]
    assert [row["freeze"] for row in table["cleared"]] == [3]


def test_one_that_cannot_be_frozen_spares_no_other(world: World, tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        join(world.site("site-1", home=tmp_path / name), world.manifest("run"))
    homes = homes_to_freeze([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a" / "identity.key").write_text("no key")
    with pytest.raises(AuditError, match=r"/a could not be frozen: .*; the ledger at .*/b is frozen"):
        check_and_freeze(made_up_audit(tiny_folder, lower=9.0), homes)
    assert Home(tmp_path / "a").frozen() is None
    assert Home(tmp_path / "b").frozen() is not None


def test_a_person_who_says_no_leaves_it_frozen(
    world: World, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(world.site("site-1", home=tmp_path), world.manifest("run"))
    with pytest.raises(AuditError):
        freeze(tmp_path, tiny_folder)
    monkeypatch.setattr("typer.confirm", lambda _question: False)
    assert call(monkeypatch, "site", "unfreeze", tmp_path, "--reason", "x") == 0
    assert Home(tmp_path).frozen() is not None


@pytest.mark.parametrize("lower", [1.0, 9.0], ids=["holds", "refuted"])
def test_the_command_writes_freezes_and_ends_by_the_verdict(
    world: World,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    lower: float,
) -> None:
    home, job, page = tmp_path / "home", tmp_path / "job.toml", tmp_path / "audit.html"
    join(world.site("site-1", home=home), world.manifest("run"))
    job.write_text(job_toml(tiny.job(tiny_folder)))
    audit = made_up_audit(tiny_folder, lower=lower)
    monkeypatch.setattr(empirical_audit, "audit_empirically", lambda *_, **__: audit)
    options = ("--report", page, "--freeze", home / "site.toml", "--json")
    refuted = lower > audit.upper
    assert call(monkeypatch, "audit", "empirical", job, *options) == int(refuted)
    output, errors = capfd.readouterr()
    assert json.loads(output)["verdict"] == audit.verdict
    assert (f"the ledger at {home / 'site.toml'} is frozen" in errors) == refuted
    assert (audit_ledger(home / "ledger.db").frozen is not None) == refuted
    assert page.with_suffix(".json").read_bytes() == evidence(audit)
    said = "No attack broke the promise" if audit.holds else "The promise is broken"
    assert said in page.read_text()


def test_what_cannot_be_written_or_frozen_is_said_before_anything_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder)))
    monkeypatch.setattr(empirical_audit, "audit_empirically", lambda *_, **__: pytest.fail("it ran"))
    assert call(monkeypatch, "audit", "empirical", job, "--report", tmp_path / "audit.txt") == 2
    assert "expected a name that ends in .html" in capfd.readouterr().err
    assert call(monkeypatch, "audit", "empirical", job, "--freeze", tmp_path) == 1
    assert "no ledger at" in capfd.readouterr().err
