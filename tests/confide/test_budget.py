"""``confide budget``: what is left at a site, and what a job would cost there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from client.budgets import read_budgets
from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection
from client.site import Site
from confide.cli import main
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job_file import job_toml
from protocol.messages.confide_pb2 import Evaluate, Join, Reply, Request, Train
from protocol.messages.vector import to_bytes
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

BUDGET = {"epsilon": 24.0, "delta": 0.01}


@pytest.fixture(scope="module")
def spent(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's home after one run of ε = 8; nothing here writes to it."""
    folder = tmp_path_factory.mktemp("spent")
    Home(folder / "custodian").write_policy(Policy(budget=BudgetSection(**BUDGET)))
    job = tiny.job(tiny_folder, training={"rounds": 1})
    run = simulate(job, runs=folder, name="run", policy=folder / "custodian" / "site.toml")
    return run.folder / "sites" / "site-1"


@pytest.fixture
def job_file(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 1})))
    return path


def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Run ``confide budget``: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["confide", "budget", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "80")
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    output, errors = capfd.readouterr()
    assert "Traceback" not in errors
    return int(caught.value.code or 0), output, errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 1, "no ledger at nowhere/ledger.db"),
        ([], 2, "Missing argument"),
        (["HOME", "--set", "training.rounds=2"], 2, "--set is for a job: name it with --job"),
        (["HOME", "--job", "missing.toml"], 2, "no job file at missing.toml"),
        (["HOME", "--job", "JOB", "--set", "privacy.epsilon=0"], 2, "privacy.epsilon: expected greater"),
    ],
)
def test_mistakes_end_with_one_message(
    spent: Path,
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [{"HOME": spent, "JOB": job_file}.get(argument, argument) for argument in arguments]
    found, output, errors = call(monkeypatch, capfd, *filled)
    assert (found, output) == (code, "")
    assert words in errors
    assert not (tmp_path / "nowhere").exists()


def test_what_is_left_is_shown(
    spent: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = call(monkeypatch, capfd, spent)
    (dataset,) = audit_ledger(spent / "ledger.db").datasets
    assert (code, errors) == (0, "")
    assert "site-1: each example may lose ε = 24 at δ = 0.01, over all runs" in output
    headings, row = output.splitlines()[-2:]
    assert headings.split("  ")[0] == "data set"
    number, examples, lost, left = row.split()
    assert (int(number), int(examples)) == (dataset.number, 64)
    # What is lost is rounded up, what is left down.
    assert dataset.epsilon <= float(lost) < dataset.epsilon + 0.01
    assert 24.0 - dataset.epsilon - 0.01 < float(left) <= 24.0 - dataset.epsilon


def test_what_a_job_would_cost_is_shown(
    spent: Path, job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = call(monkeypatch, capfd, spent, "--job", job_file)
    assert code == 0
    before, _, after = output.splitlines()[-1].split()[2:]
    assert float(before) < float(after) <= 24.0


def test_a_job_that_does_not_fit_is_refused_with_the_reason(
    spent: Path, job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """That is an answer, not a failure: the exit code is 0."""
    for setting, words in (
        ("privacy.epsilon=80", "the data's budget is epsilon=24"),
        ("privacy.mechanism=none", "the job adds no noise"),
        ("training.batch_size=65", "batch_size=65"),
    ):
        code, output, _ = call(monkeypatch, capfd, spent, "--job", job_file, "--set", setting)
        assert code == 0
        assert "refused" in output
        assert words in " ".join(output.split())


def budgets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    code, output, errors = call(monkeypatch, capfd, *arguments, "--json")
    assert (code, errors) == (0, "")
    (line,) = output.splitlines()
    return dict(json.loads(line))


def test_json_is_one_object_and_nothing_else(
    spent: Path, job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = budgets(monkeypatch, capfd, spent)
    (dataset,) = found["datasets"]
    assert found["job"] is None
    assert set(dataset) == {
        *("site", "home", "dataset", "examples", "epsilon", "delta", "spent", "after", "refusal", "frozen")
    }
    assert (dataset["after"], dataset["refusal"]) == (None, None)
    assert dataset["spent"] == audit_ledger(spent / "ledger.db").datasets[0].epsilon

    found = budgets(monkeypatch, capfd, spent, "--job", job_file)
    assert found["job"] == "tiny"
    assert dataset["spent"] < found["datasets"][0]["after"] <= 24.0

    found = budgets(monkeypatch, capfd, spent, "--job", job_file, "--set", "privacy.epsilon=80.0")
    assert found["datasets"][0]["after"] is None
    assert "epsilon=24" in found["datasets"][0]["refusal"]


@pytest.mark.parametrize("metrics", [0.0, 0.5])
def test_the_forecast_is_what_the_ledger_counts_afterwards(
    tiny_folder: Path, tmp_path: Path, metrics: float
) -> None:
    """Two runs, one after the other: what was said before the second is what stands there after it."""
    Home(tmp_path).write_policy(
        Policy(budget=BudgetSection(**BUDGET), rules=RulesSection(metrics_epsilon=metrics))
    )
    job = tiny.job(tiny_folder, training={"rounds": 1}, metrics={"epsilon": metrics})
    world = World(job)
    site = world.site("site-1", home=tmp_path)
    take_part(site, world, "first")
    (before,) = read_budgets([tmp_path], job)
    assert before.spent == audit_ledger(tmp_path / "ledger.db").datasets[0].epsilon
    take_part(site, world, "second")
    (after,) = read_budgets([tmp_path])
    assert before.spent < after.spent == before.after


def take_part(site: Site, world: World, name: str) -> None:
    """Join a run, take its one round, and answer for its metrics if the job asks."""
    manifest, adapter = world.manifest(name), to_bytes(world.initial_adapter)
    requests = [Request(join=Join(manifest=manifest.content))]
    requests.append(Request(train=Train(manifest_digest=manifest.digest, round=1, adapter=adapter)))
    if world.job.metrics.epsilon:
        requests.append(Request(evaluate=Evaluate(manifest_digest=manifest.digest, adapter=adapter)))
    for request in requests:
        reply = Reply.FromString(site.answer(request.SerializeToString()))
        assert not reply.HasField("refused"), reply.refused.reason


def test_data_that_left_without_noise_have_nothing_left(
    tiny_folder: Path,
    tmp_path: Path,
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1}, privacy={"mechanism": "none"})
    home = simulate(job, runs=tmp_path, name="bare").folder / "sites" / "site-1"
    (dataset,) = budgets(monkeypatch, capfd, home, "--job", job_file)["datasets"]
    assert (dataset["spent"], dataset["after"]) == (None, None)
    assert "without noise" in dataset["refusal"]
    _, output, _ = call(monkeypatch, capfd, home)
    assert output.splitlines()[-1].split()[2:] == ["unbounded", "none"]


def test_a_ledger_without_data_has_all_of_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    home.write_policy(Policy(budget=BudgetSection(**BUDGET)))
    ledger = home.open_ledger("site-1", home.identity())
    ledger.record(Refused(run="run", manifest="0" * 64, rule="rules.tasks", reason="no"))
    ledger.close()
    assert "all of the policy's budget is left" in call(monkeypatch, capfd, tmp_path)[1]
    assert budgets(monkeypatch, capfd, tmp_path) == {"job": None, "datasets": []}
