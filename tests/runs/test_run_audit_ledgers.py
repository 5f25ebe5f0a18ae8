"""An auditor compares a run with its sites' ledgers, and finds what was left out."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.custody.home import Home
from privacy.errors import AuditError, LedgerError
from privacy.ledger.ledger import Charge
from runs.run_audit import audit_run
from runs.run_folder import RoundRecord, RunFolder
from simulation.simulate import resume, simulate
from tests import tiny
from tests.server.evidence import (
    Evidence,
    Killed,
    edit_json,
    found,
    ledgers,
    receipt,
    resign,
)


def test_a_ledger_of_another_run_under_the_same_key(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("identity.key", "site.toml"):
        shutil.copy(run.path / "sites" / "site-2" / name, other / name)
    home = Home(other)
    ledger = home.open_ledger("site-2", home.identity())
    dataset = ledger.register([bytes(32)])
    plan = receipt(run, 1).plan
    for number in (1, 2, 3):
        ledger.reserve(
            Charge(dataset=dataset, run="else", manifest="0" * 64, plan=plan, round=number, steps=2)
        )
    ledger.close()
    words = found(run, [other / "ledger.db"])
    assert words.startswith("round 1, site-2: its ledger has no entry")
    assert "entries are lost, or it is another ledger" in words


def test_a_ledger_of_no_site_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(run.path / "sites" / "site-2" / "site.toml", tmp_path / "site.toml")
    home = Home(tmp_path)
    home.open_ledger("site-2", home.identity()).close()
    assert found(run, [home.ledger_path]) == (
        f"{home.ledger_path} is the ledger of a site site-2 whose key is none of this run's"
    )


@pytest.mark.parametrize("after", [1, 2])
def test_a_ledger_rolled_back_with_its_head(run: RunFolder, evidence: Evidence, after: int) -> None:
    """An older copy that is whole in itself: only the receipts know that there was more."""
    told = [evidence.earlier[after] / "ledger.db"]
    words = found(run, told)
    assert words.startswith(f"round {after + 1}, site-2: its ledger has no entry")
    # What it still holds agrees, so before the next round nobody could have known.
    path = run.path / "rounds.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:after]))
    assert [site.charged for site in audit_run(run, told).sites] == [None, after, None]


def test_a_ledger_whose_database_alone_is_rolled_back(run: RunFolder, evidence: Evidence) -> None:
    site = run.path / "sites" / "site-2"
    for path in evidence.earlier[1].glob("ledger.db*"):
        shutil.copy(path, site / path.name)
    with pytest.raises(LedgerError, match="an older copy of the database was put back"):
        audit_run(run, ledgers(run, "site-2"))


@pytest.mark.parametrize("old", [b'"round":2', b'"taken":4', b'"name":"gaussian"'])
def test_a_ledger_with_a_changed_entry(run: RunFolder, old: bytes) -> None:
    (path,) = ledgers(run, "site-2")
    database = sqlite3.connect(path)
    rows = database.execute("SELECT number, body FROM entries").fetchall()
    number, body = next((number, body) for number, body in rows if old in body)
    changed = body.replace(old, old.replace(b"2", b"1").replace(b"4", b"2").replace(b"gauss", b"lapla"))
    assert changed != body
    database.execute("UPDATE entries SET body = ? WHERE number = ?", (changed, number))
    database.commit()
    database.close()
    with pytest.raises(LedgerError) as caught:
        audit_run(run, [path])
    assert caught.value.entry == number


def test_a_ledger_that_is_not_there(run: RunFolder) -> None:
    assert "no ledger at" in found(run, [run.path / "ledger.db"])


def test_a_run_that_nobody_joined_has_nothing_to_show(run: RunFolder) -> None:
    (run.path / "sites.json").unlink()
    assert found(run) == "the manifest is for 3 sites, at least 3 in each round, and 0 joined"


def test_a_run_without_noise_is_audited_without_epsilon(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, privacy={"mechanism": "none"}, training={"rounds": 2})
    simulate(job, runs=tmp_path, name="run")
    run = RunFolder.open(tmp_path / "run")
    for told in ([], ledgers(run)):
        audit = audit_run(run, told)
        assert [(site.epsilon, site.recomputed) for site in audit.sites] == [(None, None)] * 3
        assert [site.charged for site in audit.sites] == [2 if told else None] * 3
    # A run without noise may claim none: whoever says so is named.
    resign(run, 2, epsilon=1.0)
    assert found(run) == "round 2, site-2: there was no noise, and it claims epsilon=1"


def kill_in_round(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every site has answered the round; nothing of it is written."""
    write = RunFolder.finish_round

    def finish_round(self: RunFolder, record: RoundRecord, *rest: Any) -> None:
        if record.round == number:
            raise Killed
        write(self, record, *rest)

    monkeypatch.setattr(RunFolder, "finish_round", finish_round)


@pytest.mark.parametrize("seed", [None, 5], ids=["fresh noise", "keyed noise"])
@pytest.mark.exhaustive(but=1)
def test_an_interrupted_round(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """With fresh noise it was paid for and lost; keyed noise repeats, and costs nothing again."""
    job = tiny.job(tiny_folder, seeds={} if seed is None else {"noise": seed})
    with monkeypatch.context() as patch:
        kill_in_round(patch, 2)
        with pytest.raises(Killed):
            simulate(job, runs=tmp_path, name="run")
    resume(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    audit = audit_run(run, ledgers(run))
    assert audit.rounds == (2 if seed is None else 3)
    assert [(site.taken, site.charged) for site in audit.sites] == [(6, 3)] * 3
    assert all(site.epsilon == pytest.approx(8.0, rel=0.01) for site in audit.sites)


def test_audit_errors_are_one_kind(run: RunFolder) -> None:
    edit_json(run.receipts_path(3), lambda table: table.pop("site-3"))
    with pytest.raises(AuditError) as caught:
        audit_run(run)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("told", [False, True], ids=["no ledger", "its ledger"])
def test_another_plan_in_every_receipt(run: RunFolder, told: bool) -> None:
    """A site that claims more noise than it added, each ε to match: its ledger knows what it planned."""
    plan = receipt(run, 1).plan
    loud = replace(plan, mechanism=replace(plan.mechanism, multiplier=2 * plan.mechanism.multiplier))
    for number in (1, 2, 3):
        resign(run, number, plan=loud, epsilon=loud.epsilon_after(2 * number))
    if told:
        assert found(run, ledgers(run)).startswith("round 1, site-2: its plan, by its ledger, is wrong")
    else:
        audit_run(run)  # only a site's word, as the command says


def test_a_repeated_round_of_which_only_the_first_try_is_told(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_in_round(patch, 2)
        with pytest.raises(Killed):
            simulate(tiny.job(tiny_folder), runs=tmp_path, name="run")
    resume(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    plan = receipt(run, 2).plan
    resign(run, 2, taken=4, epsilon=plan.epsilon_after(4))
    audit_run(run)
    words = "round 2, site-2: its count of steps, by its ledger, is wrong: expected 6, got 4"
    assert found(run, ledgers(run)) == words


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_is_left_out(run: RunFolder, number: int) -> None:
    path = run.path / "rounds.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    del lines[number - 1]
    path.write_text("".join(lines))
    assert found(run) == f"round {number}: rounds.jsonl has round {number + 1} in its place"


def test_a_site_too_many_in_the_coordinators_record(run: RunFolder) -> None:
    path = run.path / "rounds.jsonl"
    path.write_text(path.read_text().replace('{"site-1"', '{"site-0": 1.0, "site-1"'))
    assert found(run) == "round 1: rounds.jsonl tells of other sites than joined"


def test_two_ledgers_of_one_site(run: RunFolder, evidence: Evidence) -> None:
    both = [*ledgers(run, "site-2"), evidence.earlier[3] / "ledger.db"]
    assert "is a second ledger of site-2" in found(run, both)


@pytest.mark.parametrize("name", ["rounds.jsonl", "sites.json"])
@pytest.mark.parametrize("content", ["{", "[3]", '{"round": 1}', '{"site-1": 3}', '{"site-1": "x"}'])
def test_records_that_are_none(run: RunFolder, name: str, content: str) -> None:
    (run.path / name).write_text(content + "\n")
    assert f"{name} cannot be read" in found(run)


def test_an_epsilon_that_is_of_no_site(run: RunFolder) -> None:
    path = run.path / "rounds.jsonl"
    lines = [json.loads(line) | {"epsilon": 3.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "rounds.jsonl cannot be read" in found(run)
