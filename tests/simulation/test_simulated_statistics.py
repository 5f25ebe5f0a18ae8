"""Runs of statistics: what sites count, what it costs them, and who says no before anything is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import confide
from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection, policy_toml
from client.session import check_manifest
from client.statistics_site import StatisticsSite
from confide.site_commands import _described
from privacy.errors import BudgetError, JobError, ProtocolError, RunError, SiteError
from privacy.ledger.entries import Begun, Refused, Released
from privacy.ledger.ledger import Charge
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.receipt import SignedReceipt
from privacy.mechanisms.counting import ONE
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from protocol.job.job import Job
from protocol.job.manifest import Manifest, read_manifest
from protocol.messages.confide_pb2 import Count
from runs.statistics_folder import StatisticsRun
from simulation.partition import partition
from simulation.simulated_statistics import ask_statistics
from tasks.own_rows import read_own_rows
from tests import tiny

ASKED = {"epsilon": 2.0, "labels": True, "lengths": {"range": [2, 10], "bins": 8}}
MASKS = {"kind": "masks"}
SITES = ("site-1", "site-2", "site-3")


def make_job(folder: Path, **sections: Any) -> Job:
    return tiny.job(folder, **({"statistics": ASKED, "aggregation": MASKS} | sections))


def write_policy(path: Path, *, epsilon: float = 24.0, **rules: Any) -> Path:
    budget = BudgetSection(epsilon=epsilon, delta=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(policy_toml(Policy(budget=budget, rules=RulesSection.model_validate(rules))))
    return path


def events(home: Path) -> list[Any]:
    return Home(home)._events()


def charges(home: Path) -> list[Any]:
    return [one for one in events(home) if isinstance(one, Begun | Released)]


@pytest.fixture(scope="module")
def counted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StatisticsRun:
    return confide.statistics(make_job(tiny_folder), runs=tmp_path_factory.mktemp("runs"))


def test_a_job_that_asks_for_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="statistics: missing"):
        ask_statistics(tiny.job(tiny_folder), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_one_site_has_nobody_to_mask_with(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="expected two sites or more"):
        ask_statistics(make_job(tiny_folder, federation={"sites": 1}), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def true_counts(job: Job) -> list[int]:
    """Of labels, then of lengths, over all sites' rows: a token a word, and two more."""
    rows = read_own_rows(job)
    dealt = np.concatenate(list(partition(job, rows).sites.values()))
    labels, lengths = [0, 0], [0] * 10
    for place in dealt:
        labels[("no", "yes").index((rows.labels or ())[place])] += 1
        lengths[min(max(len(rows.contents[place].split()) + 2 - 2 + 1, 0), 9)] += 1
    return labels + lengths


def test_sums_are_exact_and_masks_cancel_out(tiny_folder: Path, tmp_path: Path) -> None:
    """With noise that can be drawn again, what is left without it is whole examples, to the last bit."""
    job = make_job(tiny_folder, seeds={"noise": 3})
    masked = ask_statistics(job, runs=tmp_path, name="masked").statistics
    plain = make_job(tiny_folder, seeds={"noise": 3}, aggregation={"kind": "none"})
    opened = ask_statistics(plain, runs=tmp_path, name="open").statistics
    found = np.concatenate([one.counts for one in masked.histograms]) * ONE
    assert found.tolist() == (np.concatenate([one.counts for one in opened.histograms]) * ONE).tolist()
    receipt = receipts(tmp_path / "masked")["site-1"]
    noise = np.zeros(12, np.int64)
    for site in SITES:
        source = keyed_source(3, site, "statistics", 1, 0)
        parts = [receipt.plan.mechanism.noise(size, steps=steps_of(2), source=source) for size in (2, 10)]
        noise += np.concatenate(parts)
    assert noise.any()
    assert (found.astype(np.int64) - noise).tolist() == [ONE * count for count in true_counts(job)]


def steps_of(histograms: int) -> float:
    """The least whole number that is not under 2^30 · √k."""
    return float(np.ceil(ONE * np.sqrt(np.longdouble(histograms))))


def receipts(folder: Path) -> dict[str, Any]:
    keys = json.loads((folder / "sites.json").read_text())
    kept = json.loads((folder / "receipts" / "statistics.json").read_text())
    return {
        site: SignedReceipt(
            content=one["content"].encode(), signature=bytes.fromhex(one["signature"])
        ).read(bytes.fromhex(keys[site]))
        for site, one in kept.items()
    }


def test_each_ledger_has_one_charge_for_all_histograms(counted: StatisticsRun) -> None:
    for site, receipt in receipts(counted.folder).items():
        home = counted.folder / "sites" / site
        begun, released = charges(home)
        assert (begun.purpose, released.purpose, released.round, released.taken) == (
            "statistics",
            "statistics",
            1,
            1,
        )
        assert receipt.plan == begun.plan
        assert receipt.plan.clipping_norm == pytest.approx(np.sqrt(2))
        assert receipt.purpose == "statistics"
        assert 1.9 < receipt.epsilon <= 2.0 == receipt.budget
        assert counted.statistics.spent[site] == receipt.epsilon
        (data,) = audit_ledger(home / "ledger.db").datasets
        assert data.epsilon == pytest.approx(receipt.epsilon, rel=1e-6)


def test_what_is_told_is_near_the_truth(tiny_folder: Path, counted: StatisticsRun) -> None:
    """Six deviations of normal noise are left once in 5·10^8 times."""
    told, truth = counted.statistics, true_counts(make_job(tiny_folder))
    found = np.concatenate([one.counts for one in told.histograms])
    std = told.histograms[0].std
    assert np.abs(found - truth).max() < 6 * std
    plan = receipts(counted.folder)["site-1"].plan
    assert std == pytest.approx(np.sqrt(3) * plan.mechanism.multiplier * np.sqrt(2))
    assert abs(told.examples.value - 192) < 6 * told.examples.std
    assert json.loads((counted.folder / "statistics.json").read_text()) == told.as_table()


def test_the_manifest_is_one_of_statistics_alone(counted: StatisticsRun) -> None:
    manifest = read_manifest((counted.folder / "statistics-manifest.json").read_bytes())
    assert manifest.job.statistics is not None
    unknown: Any = None
    with pytest.raises(ProtocolError, match="no site trains in it"):
        check_manifest(manifest, unknown, site="site-1", labels=(), examples=9, simulated=True)


def test_a_run_is_asked_once(tiny_folder: Path, counted: StatisticsRun) -> None:
    with pytest.raises(RunError, match="exists already"):
        ask_statistics(make_job(tiny_folder), runs=counted.folder.parent, name=counted.folder.name)


def test_a_custodian_can_refuse(tiny_folder: Path, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "site.toml")
    with pytest.raises(SiteError, match=r"site-1 refused: .*statistics_epsilon"):
        ask_statistics(make_job(tiny_folder), runs=tmp_path, name="run", policy=policy)
    for site in SITES:
        home = tmp_path / "run" / "sites" / site
        assert charges(home) == []
        assert [one.rule for one in events(home) if isinstance(one, Refused)] == [
            "rules.statistics_epsilon"
        ]


def change_requests(monkeypatch: pytest.MonkeyPatch, change: Callable[[Count], Count]) -> None:
    """Sites are asked to count by a coordinator that changes each request."""
    count: Callable[..., Any] = StatisticsSite._count
    monkeypatch.setattr(
        StatisticsSite, "_count", lambda site, joined, request: count(site, joined, change(request))
    )


@pytest.mark.parametrize("kind", ["masks", "none"])
def test_a_site_counts_under_masks_if_the_manifest_has_them_and_else_not(
    kind: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that leaves the cohort out, or makes one up, gets nothing and costs nothing."""

    def otherwise(request: Count) -> Count:
        asked = Count(manifest_digest=request.manifest_digest, bins=request.bins)
        if not request.HasField("cohort"):
            asked.cohort.SetInParent()
        return asked

    change_requests(monkeypatch, otherwise)
    policy = write_policy(tmp_path / "site.toml", statistics_epsilon=2.0)
    with pytest.raises(SiteError, match=f'masks if and only if .* it has "{kind}"'):
        ask_statistics(
            make_job(tiny_folder, aggregation={"kind": kind}), runs=tmp_path, name="run", policy=policy
        )
    for site in SITES:
        assert charges(tmp_path / "run" / "sites" / site) == []


def test_a_site_counts_for_what_the_manifest_asks(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that takes the histograms for others learns so before anything is charged."""

    def more(request: Count) -> Count:
        asked = Count()
        asked.CopyFrom(request)
        asked.bins += 1
        return asked

    change_requests(monkeypatch, more)
    policy = write_policy(tmp_path / "site.toml", statistics_epsilon=2.0)
    with pytest.raises(SiteError, match=r"histograms have 12 bins, and the coordinator asks for 13"):
        ask_statistics(make_job(tiny_folder), runs=tmp_path, name="run", policy=policy)
    for site in SITES:
        assert charges(tmp_path / "run" / "sites" / site) == []


def test_a_custodian_approves_by_hand(tiny_folder: Path, tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    policy = write_policy(tmp_path / "site.toml", statistics_epsilon=2.0, approval="manual")
    job = make_job(tiny_folder)

    def ask() -> StatisticsRun:
        return ask_statistics(job, runs=tmp_path, name="run", policy=policy, homes=homes)

    with pytest.raises(SiteError, match="run run waits for the custodian"):
        ask()
    assert not (tmp_path / "run").exists()
    for site in SITES:
        home = Home(homes / site)
        waiting = home.waiting("run")
        assert charges(homes / site) == []
        assert list(_described(waiting))[1:] == [
            "  statistics of data, for sequence-classification: labels, lengths",
            "  one release with 3 sites, aggregation.kind=masks",
            "  of the noisy counts the coordinator reads the sum alone",
            "  gaussian, epsilon=2 at delta=0.001 for all of it together",
        ]
        home.approve(waiting)
    assert set(ask().statistics.spent) == set(SITES)


def test_nothing_is_drawn_where_there_is_no_room(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = write_policy(tmp_path / "site.toml", epsilon=2.1, statistics_epsilon=2.0)
    job, homes = make_job(tiny_folder), tmp_path / "homes"
    ask_statistics(job, runs=tmp_path, name="first", policy=policy, homes=homes)
    spent = {site: charges(homes / site) for site in SITES}

    def drawn(*_: Any, **__: Any) -> None:
        raise AssertionError("noise was drawn")

    monkeypatch.setattr(Mechanism, "release", drawn)
    with pytest.raises(BudgetError, match=r"site-1: the data's budget is epsilon=2\.1"):
        ask_statistics(job, runs=tmp_path, name="second", policy=policy, homes=homes)
    assert {site: charges(homes / site) for site in SITES} == spent
    assert not (tmp_path / "second").exists()


def test_who_refuses_is_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    write_policy(homes / "site-2" / "site.toml")
    job = make_job(
        tiny_folder, federation={"sites": 3, "min_sites": 2}, aggregation=MASKS | {"threshold": 2}
    )
    told = ask_statistics(job, runs=tmp_path, name="run", homes=homes).statistics
    assert set(told.spent) == {"site-1", "site-3"}
    assert abs(told.examples.value - 128) < 6 * told.examples.std
    assert charges(homes / "site-2") == []


def test_a_site_that_fails_after_joining_is_taken_out_of_the_masks(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Callable[..., Any] = StatisticsSite._count

    def failing(site: StatisticsSite, *asked: Any) -> Any:
        if site.own.site == "site-1":
            raise BudgetError("spent meanwhile")
        return count(site, *asked)

    monkeypatch.setattr(StatisticsSite, "_count", failing)
    job = make_job(
        tiny_folder, federation={"sites": 3, "min_sites": 2}, aggregation=MASKS | {"threshold": 2}
    )
    told = ask_statistics(job, runs=tmp_path, name="run").statistics
    assert set(told.spent) == {"site-2", "site-3"}
    assert abs(told.examples.value - 128) < 6 * told.examples.std
    assert charges(tmp_path / "run" / "sites" / "site-1") == []


def test_a_charge_is_one_release(counted: StatisticsRun) -> None:
    """Whoever asks again under the same manifest gets nothing more for it."""
    manifest: Manifest = read_manifest((counted.folder / "statistics-manifest.json").read_bytes())
    home = Home(counted.folder / "sites" / "site-1")
    ledger = home.open_ledger("site-1", home.identity())
    begun = next(one for one in home._events() if isinstance(one, Begun))
    with pytest.raises(BudgetError, match="planned for 1 steps"):
        ledger.reserve(
            Charge(
                dataset=begun.dataset,
                run=manifest.run,
                manifest=manifest.digest.hex(),
                plan=begun.plan,
                round=1,
                steps=1,
                purpose="statistics",
            )
        )
    ledger.close()
