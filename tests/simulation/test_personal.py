"""Steps that sites take for themselves after the last round: noised, charged, counted and kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from client.final_round import measure
from client.local_round import ADAPTER
from client.training.training import Trainer
from privacy.errors import AuditError, JobError
from privacy.mechanisms.counting import ONE, Count
from runs.formats import format_epsilon
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from runs.spent import highest_epsilon
from simulation.booked_homes import memory_in
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges

PERSONAL = {"training": {"rounds": 2, "personal_steps": 3}, "metrics": {"epsilon": 1.0}}
SITES = ("site-1", "site-2", "site-3")
KEPT: tuple[int, Literal["own-steps"]] = (2, "own-steps")


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["none", "masks"])
def test_sites_tell_of_both_adapters_and_keep_their_own(
    tiny_folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[int] = []
    release = Count.release

    def noted(count: Count, *how: Any) -> int:
        bounds.append(count.bound)
        return release(count, *how)

    monkeypatch.setattr(Count, "release", noted)
    job = tiny.job(tiny_folder, **PERSONAL, aggregation={"kind": kind})
    run = simulate(job, runs=tmp_path)

    metrics = run.metrics
    assert metrics is not None
    assert metrics.personal is not None
    assert metrics.personal.examples == metrics.examples == sum(World(job).sizes.values())
    assert metrics.personal.right != metrics.total.right
    # Two counts share one ε: an example moves each by one, and the pair by two.
    assert bounds == [2 * ONE] * 2 * len(SITES)
    folder = RunFolder.open(run.folder)
    layout = World(job).adapted.layout
    last = folder.load_adapter(2, layout)
    for site in SITES:
        own = memory_in(folder.path / "sites", site, folder.manifest).newest()[ADAPTER]
        assert layout.change(last, own).any()
    text = (folder.path / "report.html").read_text()
    assert "sites made of it for themselves, in 3 steps" in text
    # All that was planned is spent, and each of those who count says so: the page, the run and its audit.
    planned = {site: run.epsilon[site] for site in SITES}
    assert all(value is not None and 7.9 < value <= 8.0 for value in planned.values())
    spent = sorted({format_epsilon(value) for value in planned.values()})
    assert re.search(rf"spent ε = {spent[0]}( to {spent[-1]})? of 8\.00", text)
    assert highest_epsilon(folder.records()) < highest_epsilon(folder.records(), metrics)
    audit = audit_run(folder, ledgers=[folder.path / "sites" / site / "ledger.db" for site in SITES])
    assert audit.metrics == 1.0
    assert [(one.taken, one.planned, one.charged) for one in audit.sites] == [(7, 7, 2)] * 3
    assert {one.site: one.epsilon for one in audit.sites} == planned


@pytest.mark.statistics
def test_they_are_charged_before_they_are_taken_and_have_the_runs_noise(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, seen = tmp_path / "run" / "sites" / "site-1", list[Any]()
    train = Trainer.train

    def noted(trainer: Trainer, *what: Any, **how: Any) -> Any:
        if how["training"].local_steps == 3:
            seen.append((how["plan"], how["hidden"], charges(home)[-1]))
        return train(trainer, *what, **how)

    monkeypatch.setattr(Trainer, "train", noted)
    run = simulate(tiny.job(tiny_folder, **PERSONAL), runs=tmp_path, name="run")
    plan, hidden, charge = seen[0]
    assert plan.protects
    assert not hidden
    # Two rounds of two steps each before them, and these three: all that was planned.
    assert (charge.purpose, charge.round, charge.steps, charge.taken) == ("training", 3, 3, plan.steps)
    assert plan.steps == 7
    assert plan.epsilon <= 8.0
    assert run.epsilon["site-1"] == plan.epsilon
    folder = RunFolder.open(run.folder)
    before, after = (folder.receipts(of)["site-1"].read(folder.public_keys["site-1"]) for of in KEPT)
    assert (before.taken, before.steps, after.taken, after.steps, after.round) == (4, 2, 7, 3, 3)
    assert before.epsilon is not None
    assert after.epsilon == plan.epsilon > before.epsilon
    _check_lies_are_found(folder)


def _check_lies_are_found(folder: RunFolder) -> None:
    """An audit of receipts for steps of a site's own that are lost, another round's, or told otherwise."""
    own, metrics = folder.receipts("own-steps"), folder.metrics
    assert metrics is not None
    audit_run(folder)
    folder.receipts_path("own-steps").unlink()
    with pytest.raises(AuditError, match=r"own-steps: .*own-steps\.json cannot be read"):
        audit_run(folder)
    folder.save_receipts("own-steps", own | {"site-2": folder.receipts(2)["site-2"]})
    with pytest.raises(AuditError, match="own steps, site-2: its round is wrong: expected 3, got 2"):
        audit_run(folder)
    less = replace(metrics, spent={**metrics.spent, "site-3": 0.5})
    folder.save_metrics(less, folder.receipts("metrics"), own_steps=own)
    with pytest.raises(AuditError, match=r"own steps, site-3: its epsilon in metrics\.json is wrong"):
        audit_run(folder)


@pytest.mark.exhaustive
def test_without_them_a_count_has_its_noise_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[int] = []
    monkeypatch.setattr(Count, "release", lambda count, *_: bounds.append(count.bound) or count.value)
    job = tiny.job(tiny_folder, training={"rounds": 1}, metrics={"epsilon": 1.0})
    run = simulate(job, runs=tmp_path)
    assert bounds == [ONE] * 3
    assert run.metrics is not None
    assert run.metrics.personal is None


@pytest.mark.exhaustive
def test_it_goes_on_from_what_stays_at_the_site(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, Any] = {}
    keyed = {"seeds": {"noise": 5}, "strategy": {"name": "fedsa"}}

    def noted(session: Any, *what: Any, site: str, **how: Any) -> Any:
        starts[site] = session.memory.before(3)["local"].copy()
        return measure(session, *what, site=site, **how)

    monkeypatch.setattr("client.site.measure", noted)
    job = tiny.job(tiny_folder, **PERSONAL, **keyed)
    run = simulate(job, runs=tmp_path)
    folder, layout = RunFolder.open(run.folder), World(job).adapted.layout
    for site in SITES:
        memory = memory_in(folder.path / "sites", site, folder.manifest).newest()
        assert np.array_equal(memory["local"], starts[site])
        own = layout.local_part(memory[ADAPTER])
        assert np.abs(own - starts[site]).max() > 0


def test_without_metrics_no_last_adapter_comes(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"training\.personal_steps: expected 0 with metrics\.epsilon=0"):
        tiny.job(tiny_folder, training={"personal_steps": 3})
