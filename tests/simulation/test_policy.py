"""Simulated sites under a custodian's policy."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

import pytest

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection, policy_toml
from privacy.errors import BudgetError, PolicyFileError, SiteError
from privacy.identity import Identity
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job import Job
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from simulation.simulated_policy import simulated_policy
from tests import tiny


def write_policy(path: Path, **rules: object) -> Path:
    budget = BudgetSection(epsilon=24.0, delta=0.01)
    path.write_text(policy_toml(Policy(budget=budget, rules=RulesSection.model_validate(rules))))
    return path


def test_a_policy_that_cannot_be_read_starts_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[budget]\nepsilon = 0.0\ndelta = 1e-3\n")
    with pytest.raises(PolicyFileError, match=r"budget\.epsilon"):
        simulate(tiny.job(tiny_folder), runs=tmp_path / "runs", policy=tmp_path / "site.toml")
    assert not (tmp_path / "runs").exists()


def test_each_site_gets_the_policy_and_holds_it(tiny_folder: Path, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "site.toml", least_cohort=3)
    job = tiny.job(tiny_folder, training={"rounds": 1})
    run = simulate(job, runs=tmp_path, name="run", policy=policy)
    homes = [Home(path) for path in sorted((run.folder / "sites").iterdir())]
    assert len(homes) == 3
    assert all(home.read_policy().rules.least_cohort == 3 for home in homes)
    assert all(audit_ledger(home.ledger_path).budget.epsilon == 24.0 for home in homes)
    assert len({home.identity().public for home in homes}) == 3


def test_a_forbidden_run_stays_to_go_on_with_once_it_is_allowed(tiny_folder: Path, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "site.toml", least_cohort=4)
    job = tiny.job(tiny_folder, training={"rounds": 1})
    with pytest.raises(SiteError, match=r"rules\.least_cohort: expected at least 4 sites"):
        simulate(job, runs=tmp_path, name="run", policy=policy)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.records() == []
    with pytest.raises(SiteError, match=r"site-1 refused.*rules\.least_cohort"):
        resume(folder.path)
    write_policy(folder.path / "sites" / "site-1" / "site.toml", least_cohort=3)
    with pytest.raises(SiteError, match=r"site-2 refused.*rules\.least_cohort"):
        resume(folder.path)
    for site in ("site-2", "site-3"):
        write_policy(folder.path / "sites" / site / "site.toml", least_cohort=3)
    assert len(resume(folder.path).rounds) == 1


def test_without_a_policy_a_site_allows_just_its_job_and_coordinator(
    tiny_folder: Path, tmp_path: Path
) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1})
    run = simulate(job, runs=tmp_path, name="run")
    coordinator = RunFolder.open(run.folder).identity.public
    for site in ("site-1", "site-2", "site-3"):
        home = Home(run.folder / "sites" / site)
        assert home.read_policy() == simulated_policy(job, coordinator, epsilon=job.privacy.epsilon)
        assert home.read_policy().rules.coordinator == coordinator.hex()
        # All of it is spent: there is no second run on this data.
        (dataset,) = audit_ledger(home.ledger_path).datasets
        assert 7.5 < dataset.epsilon <= home.read_policy().budget.epsilon == 8.0


def test_a_policy_that_is_there_is_not_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    write_policy(tmp_path / "site.toml", least_cohort=9)
    World(tiny.job(tiny_folder)).site("site-1", home=tmp_path, coordinator=Identity.generate().public)
    assert Home(tmp_path).read_policy().rules.least_cohort == 9
    assert Home(tmp_path).read_policy().rules.coordinator is None


def test_runs_on_the_same_homes_add_up(tiny_folder: Path, tmp_path: Path) -> None:
    """Three runs of ε = 8 fit in a budget of 24, and several more by the order of the filter."""
    policy, homes = write_policy(tmp_path / "site.toml"), tmp_path / "homes"
    job = tiny.job(tiny_folder, training={"rounds": 1})
    first = simulate(job, runs=tmp_path, name="first", policy=policy, homes=homes)
    second = simulate(job, runs=tmp_path, name="second", homes=homes)
    for site in ("site-1", "site-2", "site-3"):
        audit = audit_ledger(homes / site / "ledger.db")
        assert [plan.run for plan in audit.plans] == ["first", "second"]
        assert 8.0 < audit.datasets[0].epsilon <= 16.0
    for run in (first, second):
        ledgers = [homes / site / "ledger.db" for site in ("site-1", "site-2", "site-3")]
        assert [site.charged for site in audit_run(RunFolder.open(run.folder), ledgers).sites] == [1, 1, 1]
    tried = (fits(job, tmp_path, f"run-{number}", homes) for number in range(8))
    fitted = sum(takewhile(bool, tried))
    assert 1 <= fitted < 8
    for site in ("site-1", "site-2", "site-3"):
        assert audit_ledger(homes / site / "ledger.db").datasets[0].epsilon <= 24.0


def fits(job: Job, runs: Path, name: str, homes: Path) -> bool:
    """Whether the sites have room for one more run."""
    try:
        simulate(job, runs=runs, name=name, homes=homes)
    except BudgetError:
        return False
    return True


def test_homes_without_a_policy_allow_one_run(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1})
    simulate(job, runs=tmp_path, name="first", homes=tmp_path / "homes")
    with pytest.raises(BudgetError, match="budget is epsilon=8 "):
        simulate(job, runs=tmp_path, name="second", homes=tmp_path / "homes")


def test_a_run_is_flushed_to_the_disk_where_its_homes_outlast_it(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What homes were charged for must not be lost in a power cut that they outlast."""
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    job = tiny.job(tiny_folder, training={"rounds": 1}, seeds={"noise": 1})  # a round may be repeated
    simulate(job, runs=tmp_path, name="alone")
    alone = tmp_path / "alone"
    assert flushed == [str(alone / ".report.html.partial"), str(alone)]  # the report, once it is over
    simulate(job, runs=tmp_path, name="kept", homes=tmp_path / "homes")
    ours = [name for name in flushed if name.startswith(str(tmp_path / "kept"))]
    assert str(tmp_path / "kept" / "rounds.jsonl") in ours
    assert str(tmp_path / "kept" / "rounds") in ours
    with (tmp_path / "kept" / "rounds.jsonl").open("w"):  # as if the last round had not been written
        flushed.clear()
    resume(tmp_path / "kept")
    assert str(tmp_path / "kept" / "rounds.jsonl") in flushed
