"""``confide audit``: what it says, by which exit code, and that no evidence harms whoever reads it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client.budgets import BudgetLeft
from confide.budget_view import print_budgets
from confide.cli import main
from privacy.identity import Identity
from privacy.ledger.entries import Approved, Entry, Refused
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.receipt import sign_receipt
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tests import tiny

# Rich would obey the first two, a terminal the others: clear the screen, ring, write from right to left.
EVIL = "[bold]x[/bold][/nothing]\x1b[2J\x07\u202e\nname"


@dataclass(frozen=True, kw_only=True)
class Told:
    code: int
    output: str
    errors: str


Call = Callable[..., Told]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run ``confide``; never a traceback, and no line in vain on the other stream."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["confide", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capfd.readouterr()
        told = Told(code=int(caught.value.code or 0), output=output, errors=errors)
        assert "Traceback" not in errors
        assert (told.code == 0) == (errors == "")
        return told

    return run


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return simulate(tiny.job(tiny_folder, training={"rounds": 2}), runs=runs, name="run").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def one_object(told: Told) -> dict[str, Any]:
    """What --json printed: one object on one line, and nothing else."""
    assert told.code == 0
    (line,) = told.output.splitlines()
    return dict(json.loads(line))


def change_entry(home: Path, old: bytes, new: bytes) -> int:
    """Change the first entry that says ``old``; its number."""
    database = sqlite3.connect(home / "ledger.db")
    rows = database.execute("SELECT number, body FROM entries ORDER BY number").fetchall()
    number, body = next((number, body) for number, body in rows if old in body)
    database.execute("UPDATE entries SET body = ? WHERE number = ?", (body.replace(old, new), number))
    database.commit()
    database.close()
    return int(number)


@pytest.mark.parametrize("json_too", [False, True])
def test_the_first_wrong_entry_is_named(run: Path, call: Call, json_too: bool) -> None:
    number = change_entry(run / "sites" / "site-1", b'"round":2', b'"round":1')
    told = call("audit", "ledger", run / "sites" / "site-1", *["--json"] * json_too)
    assert (told.code, told.output) == (1, "")
    assert told.errors == f"confide: entry {number}: the site's key did not sign it\n"


def test_a_ledger_that_cannot_be_read_is_said_so(run: Path, call: Call, tmp_path: Path) -> None:
    told = call("audit", "ledger", tmp_path / "nowhere")
    assert (told.code, told.output) == (1, "")
    assert "no ledger at" in told.errors
    told = call("audit", "ledger", tmp_path)
    assert "no ledger at" in told.errors
    told = call("audit", "ledger", run / "manifest.json")
    assert told.code == 1
    assert told.errors.startswith("confide: entry 1: ")
    assert call("audit", "ledger").code == 2
    assert call("audit", "ledger", run, "--ledger", run).code == 2


def test_a_ledgers_totals_are_shown(run: Path, call: Call) -> None:
    home = run / "sites" / "site-1"
    for path in (home, home / "ledger.db"):
        told = call("audit", "ledger", path)
        assert told.code == 0
        assert "✓ site-1: 5 entries, every signature and total holds" in told.output
        row = next(line for line in told.output.splitlines() if line.startswith("run  "))
        assert [column in told.output for column in ("σ", "ε again", "4/4")] == [True] * 3
        assert row.split()[0] == "run"
        assert max(map(len, told.output.splitlines())) <= 80
    assert "Caution" not in told.output


def test_a_ledger_as_json(run: Path, call: Call) -> None:
    home = run / "sites" / "site-1"
    found, audit = one_object(call("audit", "ledger", home, "--json")), audit_ledger(home / "ledger.db")
    assert (found["ok"], found["site"], found["complete"]) == (True, "site-1", True)
    assert (found["head"], found["entries"]) == (audit.head, 5)
    assert found["budget"] == {
        "epsilon": 8.0,
        "delta": 2e-3,
        "order": audit.budget.order,
        "unit": "example",
        "adjacency": "zero-out",
    }
    (dataset,), (plan,) = found["datasets"], found["plans"]
    assert (dataset["examples"], dataset["epsilon"]) == (64, audit.datasets[0].epsilon)
    assert (plan["run"], plan["taken"], plan["steps"], plan["charges"]) == ("run", 4, 4, 2)
    assert plan["recomputed"] == pytest.approx(plan["epsilon"], rel=0.012)
    assert found["refusals"] == []


def test_a_ledger_without_its_head_is_cautioned_about(run: Path, call: Call) -> None:
    home = run / "sites" / "site-1"
    (home / "ledger.head").unlink()
    assert "nobody can tell whether\nentries were cut off" in call("audit", "ledger", home).output
    assert one_object(call("audit", "ledger", home, "--json"))["complete"] is False


def test_looking_changes_nothing(run: Path, call: Call) -> None:
    home = run / "sites" / "site-1"
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    call("audit", "ledger", home)
    call("audit", "run", run, "--ledger", home)
    call("budget", home)
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("json_too", [False, True])
def test_the_first_wrong_round_and_site_are_named(run: Path, call: Call, json_too: bool) -> None:
    path = run / "receipts" / "002.json"
    table = json.loads(path.read_text())
    table["site-2"], table["site-3"] = table["site-3"], table["site-2"]
    path.write_text(json.dumps(table))
    told = call("audit", "run", run, *["--json"] * json_too)
    assert (told.code, told.output) == (1, "")
    assert told.errors == "confide: round 2, site-2: the signature does not fit: receipt\n"


def test_a_lower_epsilon_under_the_sites_own_key_is_named(run: Path, call: Call) -> None:
    folder = RunFolder.open(run)
    signed, key = folder.receipts(2), Identity.load(run / "sites" / "site-2" / "identity.key")
    lower = replace(signed["site-2"].read(key.public), epsilon=1.0)
    folder.save_receipts(2, signed | {"site-2": sign_receipt(key, lower)})
    path = run / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["epsilon"]["site-2"] = 1.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = call("audit", "run", run)
    assert told.code == 1
    assert told.errors.startswith(
        "confide: round 2, site-2: it claims epsilon=1.0, a second accountant finds "
    )


def test_what_is_no_run_or_no_ledger_of_it(run: Path, call: Call, tmp_path: Path) -> None:
    told = call("audit", "run", tmp_path)
    assert (told.code, told.output) == (1, "")
    assert "not a run folder" in told.errors
    assert "no ledger at" in call("audit", "run", run, "--ledger", tmp_path / "nowhere").errors
    other = Ledger.open(
        tmp_path / "other", site="site-1", identity=Identity.generate(), epsilon=1.0, delta=1e-3
    )
    other.close()
    told = call("audit", "run", run, "--ledger", tmp_path / "other")
    assert told.code == 1
    assert "whose key is none of this run's" in told.errors
    assert call("audit", "run").code == 2


def test_an_honest_run_is_said_to_hold(run: Path, call: Call) -> None:
    told = call("audit", "run", run, "--ledger", run / "sites" / "site-1")
    assert told.code == 0
    assert "✓ run: 2 rounds, every receipt holds" in told.output
    rows = [line.split() for line in told.output.splitlines() if line.startswith("site-")]
    assert [row[:4] for row in rows] == [[f"site-{n}", "4", "of", "4"] for n in (1, 2, 3)]
    assert [" ".join(row[6:]) for row in rows] == ["agrees", "not given", "not given"]
    assert "without its ledger (--ledger), receipts are only a site's word" in told.output
    assert max(map(len, told.output.splitlines())) <= 80
    every = [word for n in (1, 2, 3) for word in ("--ledger", run / "sites" / f"site-{n}" / "ledger.db")]
    assert "Caution" not in call("audit", "run", run, *every).output


def test_an_honest_run_as_json(run: Path, call: Call) -> None:
    found = one_object(call("audit", "run", run, "--ledger", run / "sites" / "site-2", "--json"))
    folder = RunFolder.open(run)
    assert (found["ok"], found["run"], found["rounds"]) == (True, "run", 2)
    assert found["manifest"] == folder.manifest.digest.hex()
    assert [site["site"] for site in found["sites"]] == ["site-1", "site-2", "site-3"]
    assert [site["charged_rounds"] for site in found["sites"]] == [None, 2, None]
    spent = folder.records()[-1].epsilon
    assert {site["site"]: site["epsilon"] for site in found["sites"]} == spent


def test_a_run_that_has_no_round_yet_is_not_said_to_hold(run: Path, call: Call) -> None:
    (run / "rounds.jsonl").write_text("")
    told = call("audit", "run", run)
    assert told.output == "run: no round is finished, so there is nothing to check yet\n"
    assert one_object(call("audit", "run", run, "--json"))["rounds"] == 0


def test_a_run_without_noise_is_not_said_to_have_an_epsilon(
    call: Call, tiny_folder: Path, tmp_path: Path
) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1}, privacy={"mechanism": "none"})
    run = simulate(job, runs=tmp_path, name="bare").folder
    told = call("audit", "run", run, "--ledger", run / "sites" / "site-1")
    assert told.code == 0
    assert "…, without noise" in told.output
    assert "ε =" not in told.output
    rows = [line.split()[4:6] for line in told.output.splitlines() if line.startswith("site-")]
    assert rows == [["unbounded", "unbounded"]] * 3
    found = one_object(call("audit", "run", run, "--json"))
    assert (found["epsilon"], found["delta"]) == (None, None)
    assert [site["epsilon"] for site in found["sites"]] == [None] * 3
    (dataset,) = one_object(call("audit", "ledger", run / "sites" / "site-1", "--json"))["datasets"]
    assert dataset["epsilon"] is None


def test_metrics_are_told_beside_the_training(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1}, metrics={"epsilon": 0.5})
    run = simulate(job, runs=tmp_path, name="measured").folder
    home = run / "sites" / "site-1"
    assert "and ε = 0.5 for the metrics after it" in call("audit", "run", run, "--ledger", home).output
    assert one_object(call("audit", "run", run, "--json"))["metrics_epsilon"] == 0.5
    assert "measured, metrics" in call("audit", "ledger", home).output
    plans = one_object(call("audit", "ledger", home, "--json"))["plans"]
    assert [plan["purpose"] for plan in plans] == ["training", "metrics"]


def test_names_that_others_chose_are_shown_and_not_obeyed(call: Call, tmp_path: Path) -> None:
    """A ledger's strings are its site's, and its refusals quote whoever asked."""
    ledger = Ledger.open(tmp_path, site=EVIL, identity=Identity.generate(), epsilon=1.0, delta=1e-3)
    ledger.register([bytes(32)])
    ledger.record(Refused(run=EVIL, manifest="0" * 64, rule=EVIL, reason=EVIL))
    ledger.record(Approved(run=EVIL, manifest="0" * 64))
    ledger.close()
    for command in (["audit", "ledger", tmp_path], ["budget", tmp_path]):
        told = call(*command)
        assert told.code == 0
        assert "[bold]x[/bold][/nothing]" in told.output
        assert not {"\x1b", "\x07", "\u202e"} & set(told.output)
    assert one_object(call("audit", "ledger", tmp_path, "--json"))["site"] == EVIL


def test_names_in_errors_are_harmless_too(tmp_path: Path, call: Call) -> None:
    told = call("audit", "run", tmp_path / EVIL)
    assert told.code == 1
    assert "[bold]x[/bold]" in told.errors
    assert not {"\x1b", "\x07", "\u202e"} & set(told.errors)


def test_a_time_beyond_all_calendars_is_shown_as_it_stands(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the key writes what they like: an auditor reads on."""
    ledger = Ledger.open(
        tmp_path,
        site="site-1",
        identity=Identity.generate(),
        epsilon=1.0,
        delta=1e-3,
        clock=lambda: 10**20,
    )
    ledger.record(Approved(run="run", manifest="0" * 64))
    ledger.close()
    assert isinstance(audit_ledger(tmp_path / "ledger.db").entries[0], Entry)
    assert f"at {10**20} s approved run run" in call("audit", "ledger", tmp_path).output


@pytest.mark.parametrize("command", [[], ["audit"], ["audit", "run"], ["site", "close"], ["budget"]])
def test_help_needs_no_heavy_package(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['confide', *{command}, '--help']\n"
        "from confide.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'numpy', 'scipy', 'pydantic', 'dp_accounting', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Usage" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"


# Books, which have the ledgers of many sites.


@pytest.fixture(scope="module")
def finished_cohorts(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = tiny.job(
        tiny_folder,
        federation={"sites": 4, "cohort": 2},
        training={"rounds": 2, "local_steps": 1, "batch_size": 8},
    )
    return simulate(job, runs=tmp_path_factory.mktemp("runs"), name="run", workers=1).folder


@pytest.fixture
def cohorts(finished_cohorts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_cohorts, tmp_path / "cohorts", symlinks=True))


def test_a_book_is_audited_whole(cohorts: Path, call: Call) -> None:
    for path in (cohorts / "sites", cohorts / "sites" / "book.db"):
        told = call("audit", "ledger", path)
        assert "every signature and total holds" in told.output
        # Each site is drawn once: one entry to begin, one for its data, one for its plan, one charge.
        assert "  4 sites, 16 entries, 4 charges" in told.output
        assert "the most that an example has lost: ε = 8.00 of 8, at site-" in told.output
    found = one_object(call("audit", "ledger", cohorts / "sites", "--json"))
    assert (found["ok"], found["sites"], found["entries"], found["charges"]) == (True, 4, 16, 4)
    assert found["broken"] == []
    assert 7.9 < found["largest"]["epsilon"] <= 8.0
    one = one_object(call("audit", "ledger", cohorts / "sites", "--site", "site-2", "--json"))
    assert (one["site"], one["entries"]) == ("site-2", 4)
    key = call("audit", "ledger", cohorts / "sites", "--key", one["public_key"])
    assert (key.code, "--site NAME" in key.errors) == (1, True)


@pytest.mark.parametrize("json_too", [False, True])
def test_broken_ledgers_in_a_book_are_named(cohorts: Path, call: Call, json_too: bool) -> None:
    database = sqlite3.connect(cohorts / "sites" / "book.db")
    database.execute("UPDATE entries SET signature = zeroblob(64) WHERE site > 'site-2' AND number = 3")
    database.commit()
    database.close()
    told = call("audit", "ledger", cohorts / "sites", *["--json"] * json_too)
    assert told.code == 1
    assert told.errors == (
        "confide: 2 of 4 ledgers do not hold; site site-3: entry 3: the site's key did not sign it\n"
    )
    if json_too:
        found = json.loads(told.output)
        assert (found["ok"], [one["site"] for one in found["broken"]]) == (False, ["site-3", "site-4"])
        assert found["charges"] == 2
    else:
        rows = [line.split("  ") for line in told.output.splitlines() if line.startswith("site-")]
        assert [row[0] for row in rows] == ["site-3", "site-4"]
        assert "  2 sites, 8 entries, 2 charges" in told.output
        assert max(map(len, told.output.splitlines())) <= 80 + len(str(cohorts))


def test_the_budgets_of_a_book_are_shown(cohorts: Path, call: Call) -> None:
    told = call("budget", cohorts / "sites")
    assert "4 sites: each example may lose ε = 8 at δ = 0.002" in told.output
    rows = [line.split() for line in told.output.splitlines() if line.startswith("site-")]
    assert [row[0] for row in rows] == ["site-1", "site-2", "site-3", "site-4"]
    assert {row[3] for row in rows} == {"8.00"}
    found = one_object(call("budget", cohorts / "sites", "--json"))["datasets"]
    assert [one["site"] for one in found] == ["site-1", "site-2", "site-3", "site-4"]
    alone = call("budget", cohorts / "sites", "--site", "site-3")
    assert "site-3: each example may lose" in alone.output
    nobody = call("budget", cohorts / "sites", "--site", "nobody")
    assert (nobody.code, "site nobody" in nobody.errors) == (1, True)


def test_of_many_budgets_those_with_the_least_left_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def left(number: int) -> BudgetLeft:
        return BudgetLeft(
            site=f"site-{number:02d}",
            home="",
            dataset=2,
            examples=20,
            epsilon=8.0,
            delta=1e-5,
            spent=None if number == 7 else number / 10,
            after=None,
            refusal="too much" if number > 20 else None,
        )

    print_budgets([left(number) for number in range(30)], None)
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines() if line.startswith("site-") and "," not in line]
    assert [int(row[0][-2:]) for row in rows] == [7, *range(29, 18, -1)]
    assert [row[-1] for row in rows[:2]] == ["none", "5.10"]
    assert "and 18 data sets more, with as much left or more" in told
    assert "9 of 30 data sets refuse the job; of those shown:" in told
    assert "site-29, data set 2 refuses the job: too much" in told
