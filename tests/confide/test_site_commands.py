"""``confide site``, and a simulation under a policy, from the first refusal to the end of the run."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection
from confide.cli import main
from privacy.ledger.entries import Approved, Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job_file import job_toml
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests import tiny

SITES = ("site-1", "site-2", "site-3")


class Terminal:
    """Runs ``confide`` where it stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, output and errors: never a traceback."""
        self._patch.setattr(sys, "argv", ["confide", *map(str, arguments)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = self._capture.readouterr()
        assert "Traceback" not in errors
        return int(caught.value.code or 0), output, errors


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capfd)


@pytest.fixture
def job_file(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 2})))
    return path


def write_policy(folder: Path, *, epsilon: float = 24.0, **rules: object) -> Path:
    policy = Policy(
        budget=BudgetSection(epsilon=epsilon, delta=0.01), rules=RulesSection.model_validate(rules)
    )
    Home(folder).write_policy(policy)
    return folder / "site.toml"


def test_from_refusal_by_approval_to_the_end(call: Terminal, job_file: Path, tmp_path: Path) -> None:
    policy, run = write_policy(tmp_path, approval="manual"), tmp_path / "confide-runs" / "run"
    start = ["simulate", job_file, "--policy", policy, "--run-name", "run"]
    code, _, errors = call(*start)
    assert code == 1
    assert "refuses, by rules.approval: run run waits for the custodian" in errors
    assert "confide site approve run" in errors
    homes = [run / "sites" / site for site in SITES]
    assert all(stat.S_IMODE((home / "identity.key").stat().st_mode) == 0o600 for home in homes)

    # Each custodian decides: as long as one has not, nothing runs anywhere.
    for home in homes[:2]:
        code, output, _ = call("site", "approve", "run", "--yes", "--home", home)
        assert code == 0
        assert output.startswith("Run run, manifest ")
        assert (
            "  2 rounds with 3 sites, aggregation.kind=none\n"
            "  the coordinator reads each of this site's updates\n  gaussian, epsilon=8 at delta=0.001\n"
            in output
        )
        assert output.endswith("Approved run run\n")
    code, _, errors = call("simulate", "--resume", run)
    assert code == 1
    assert "site-3 refused: the site's policy refuses, by rules.approval" in errors
    assert not any(Home(home).has_released("run") for home in homes)

    assert call("site", "approve", "run", "--yes", "--home", homes[2])[0] == 0
    code, output, errors = call("simulate", "--resume", run)
    assert (code, errors) == (0, "")
    assert "round 2/2" in output
    folder = RunFolder.open(run)
    audit = audit_run(folder, [home / "ledger.db" for home in homes])
    assert [site.charged for site in audit.sites] == [2, 2, 2]
    for home in homes:
        events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
        # Refused once however often it was asked, then approved, once.
        decided = [type(event) for event in events if isinstance(event, Refused | Approved)]
        assert decided == [Refused, Approved]

    code, output, _ = call("site", "close", "run", "--home", homes[0])
    assert code == 0
    lost = audit_ledger(homes[0] / "ledger.db").datasets[0].epsilon
    assert output == f"Closed run run\n  what its data have lost counts as epsilon={lost:.2f} now\n"
    assert "closed run run" in call("audit", "ledger", homes[0])[1]


def test_only_what_waits_is_approved(call: Terminal, job_file: Path, tmp_path: Path) -> None:
    policy, run = write_policy(tmp_path, approval="manual"), tmp_path / "confide-runs" / "run"
    call("simulate", job_file, "--policy", policy, "--run-name", "run")
    home = run / "sites" / "site-1"
    code, output, errors = call("site", "approve", "other", "--home", home)
    assert (code, output) == (2, "")
    assert "expected one manifest of run other that waits for approval, found none; run waits at" in errors
    assert call("site", "approve", "run", "--yes", "--home", home)[0] == 0
    code, _, errors = call("site", "approve", "run", "--yes", "--home", home)
    assert code == 2
    assert "no run waits" in errors
    # Not in the wrong place either, and none is made there.
    code, _, errors = call("site", "approve", "run", "--home", tmp_path / "nowhere")
    assert code == 2
    assert not (tmp_path / "nowhere").exists()
    assert call("site", "approve", "run")[0] == 2

    # A ledger that is gone takes no approval.
    home = run / "sites" / "site-2"
    for path in home.glob("ledger.*"):
        path.unlink()
    code, _, errors = call("site", "approve", "run", "--yes", "--home", home)
    assert code == 1
    assert "no ledger at" in errors


def test_only_a_run_that_began_is_closed(call: Terminal, job_file: Path, tmp_path: Path) -> None:
    call("simulate", job_file, "--run-name", "run", "--set", "training.rounds=1")
    home = tmp_path / "confide-runs" / "run" / "sites" / "site-1"
    code, output, errors = call("site", "close", "other", "--home", home)
    assert (code, output) == (2, "")
    assert "run other began no plan that could end; run did" in errors
    code, _, errors = call("site", "close", "run", "--home", tmp_path / "nowhere")
    assert code == 1
    assert "no ledger at" in errors
    shutil.copy(
        tmp_path / "confide-runs" / "run" / "sites" / "site-2" / "identity.key", home / "identity.key"
    )
    code, _, errors = call("site", "close", "run", "--home", home)
    assert code == 1
    assert "this site's key did not sign it" in errors


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        ({"epsilon": 7.0}, "budget.epsilon_per_run"),
        ({"mechanisms": ["laplace"]}, "rules.mechanisms"),
        ({"least_cohort": 4}, "rules.least_cohort"),
        ({"tasks": ["causal-lm"]}, "rules.tasks"),
        ({"secure_aggregation": "required"}, "rules.secure_aggregation"),
    ],
)
def test_a_policy_that_forbids_the_job_is_named(
    call: Terminal, job_file: Path, tmp_path: Path, rules: dict[str, object], rule: str
) -> None:
    policy = write_policy(tmp_path, **rules)
    code, output, errors = call("simulate", job_file, "--policy", policy, "--run-name", "run", "--json")
    assert (code, output) == (1, "")
    assert errors.startswith(f"confide: site-1 refused: the site's policy refuses, by {rule}: ")
    home = tmp_path / "confide-runs" / "run" / "sites" / "site-1"
    assert not Home(home).has_released("run")
    ledger = json.loads(call("audit", "ledger", home, "--json")[1])
    assert [refusal["rule"] for refusal in ledger["refusals"]] == [rule]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no policy at"),
        ("[budget\n", "cannot read the policy"),
        (
            "[budget]\nepsilon = 1.0\ndelta = 2.0\n",
            "budget.delta: expected less than 1",
        ),
    ],
)
def test_a_policy_file_that_is_none_starts_nothing(
    call: Terminal, job_file: Path, tmp_path: Path, content: str | None, words: str
) -> None:
    policy = tmp_path / "site.toml"
    if content is not None:
        policy.write_text(content)
    code, output, errors = call("simulate", job_file, "--policy", policy, "--json")
    assert (code, output) == (2, "")
    assert words in errors
    assert not (tmp_path / "runs").exists()


def test_a_resumed_run_keeps_each_sites_policy(call: Terminal, tmp_path: Path) -> None:
    code, _, errors = call("simulate", "--resume", tmp_path, "--policy", tmp_path / "site.toml")
    assert code == 2
    assert "a resumed one keeps its job" in errors
