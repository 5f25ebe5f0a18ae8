"""Cohorts in a simulation: who trains, what it costs, and what the audit says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confide import audit_ledger, audit_run, resume, simulate
from protocol.job.job import Job
from runs.progress import Progress
from runs.run import Run
from runs.run_folder import RoundRecord, RunFolder
from tests import tiny

SITES, DRAWN, ROUNDS = 6, 2, 4
MASKS = {"kind": "masks", "modulus_bits": 32}
CENTRAL = {"unit": "site", "noise": "central", "epsilon": 50.0}


class StopAfterTwo(Progress):
    """What stands for a kill after the second round."""

    def round(self, record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt


def job(folder: Path, **changes: Any) -> Job:
    asked: dict[str, Any] = {
        "federation": {"sites": SITES, "cohort": DRAWN},
        "training": {"rounds": ROUNDS, "batch_size": 8, "physical_batch_size": 8},
        "seeds": {"noise": 1},
    }
    return tiny.job(folder, **asked | changes)


def run(job: Job, path: Path, **options: Any) -> Run:
    return simulate(job, runs=path, name="run", workers=1, **options)


@pytest.mark.parametrize("changes", [{}, {"aggregation": MASKS}], ids=["plain", "masks"])
def test_a_round_has_its_cohort_and_each_site_pays_for_its_own_rounds(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = run(job(tiny_folder, **changes, seeds={}), tmp_path)
    folder = RunFolder.open(made.folder)
    manifest = folder.manifest
    assert (manifest.cohort, manifest.site_count, manifest.most_rounds) == (DRAWN, SITES, 2)
    for record in folder.records():
        assert record.present == manifest.drawn(record.round)
        assert not record.absent
    audited = audit_run(made.folder, ledgers=[made.folder / "sites" / "book.db"])
    for site in audited.sites:
        assert site.rounds == site.charged == manifest.rounds_of(site.site)
        # Its plan is for just these rounds, and they use it up: to the search's one part in a thousand.
        assert site.taken == site.planned == 2 * site.rounds
        assert 0.98 * 8.0 < (site.epsilon or 0.0) <= 8.0
    assert len(audited.sites) == SITES
    ledger = audit_ledger(made.folder / "sites", site=audited.sites[0].site)
    assert (ledger.site, ledger.complete) == (audited.sites[0].site, True)
    assert {path.name for path in (made.folder / "sites").iterdir()} >= {"book.db", "identity.key"}
    assert "6 sites trained for 4 rounds, 2 in each" in (made.folder / "report.html").read_text()


def test_a_site_that_is_drawn_less_often_adds_less_noise(tiny_folder: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(run(job(tiny_folder), tmp_path).folder)
    keys = folder.public_keys
    noise: dict[int, set[float]] = {}
    for record in folder.records():
        for site, receipt in folder.receipts(record.round).items():
            rounds = folder.manifest.rounds_of(site)
            noise.setdefault(rounds, set()).add(receipt.read(keys[site]).plan.mechanism.multiplier)
    assert sorted(noise) == [1, 2]
    assert max(noise[1]) < min(noise[2])


def test_a_resumed_run_draws_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    masked = job(tiny_folder, aggregation=MASKS)
    whole = run(masked, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        run(masked, tmp_path / "cut", progress=StopAfterTwo())
    resumed = resume(tmp_path / "cut" / "run", workers=1)
    assert [record.present for record in resumed.rounds] == [record.present for record in whole.rounds]
    assert resumed.rounds[-1].loss == pytest.approx(whole.rounds[-1].loss, abs=1e-6)


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": CENTRAL},
        {"privacy": CENTRAL, "aggregation": MASKS},
        {"privacy": CENTRAL | {"noise": "distributed", "mechanism": "skellam"}, "aggregation": MASKS},
        {"aggregation": MASKS, "metrics": {"epsilon": 1.0}},
        {"metrics": {"epsilon": 1.0}, "compression": {"kind": "top-k"}, "strategy": {"name": "ffa"}},
        {"strategy": {"name": "lora"}},
        {"privacy": {"mechanism": "none"}},
    ],
    ids=["central", "central-masks", "skellam", "metrics-masks", "metrics-top-k", "lora", "silent"],
)
def test_cohorts_go_with_each_kind_of_run(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = run(job(tiny_folder, **changes), tmp_path)
    folder = RunFolder.open(made.folder)
    manifest = folder.manifest
    assert [record.present for record in folder.records()] == [
        manifest.drawn(number) for number in range(1, ROUNDS + 1)
    ]
    metrics = folder.metrics
    if metrics is not None:
        assert set(metrics.told_by) == manifest.drawn(ROUNDS)
    audited = audit_run(made.folder, ledgers=[made.folder / "sites" / "book.db"])
    if manifest.job.privacy.hides_sites and manifest.job.privacy.protects:
        # The noise is one for all: for those that are drawn most often.
        assert {site.planned for site in audited.sites} == {manifest.most_rounds}
