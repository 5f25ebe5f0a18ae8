"""Runs whose unit is a group of rows: nobody stands at two sites, and receipts say whom they are for."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.session import plan_training
from client.training.unit_check import check_privacy_unit
from privacy.ledger.entries import Begun
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.model_card import model_card
from runs.privacy_card import make_card
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.forecast.forecast import forecast
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.registry import checked_job, read_job
from tests import tiny
from tests.tasks import networks

PEOPLE = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 texts of 90 people."""
    found = tmp_path_factory.mktemp("grouped")
    tiny.table(found)
    with (found / "people.csv").open("w", newline="") as file:
        rows = [[*row, f"p{number * 7 % PEOPLE}"] for number, row in enumerate(tiny.rows())]
        csv.writer(file).writerows([["text", "label", "town", "person"], *rows])
    return found


def grouped(folder: Path, **changes: Any) -> Job:
    data = {"source": str(folder / "people.csv"), "group": "person", "rows_per_group": 2}
    data |= changes.pop("data", {})
    training = {"rounds": 1} | changes.pop("training", {})
    return tiny.job(folder, data=data, privacy={"unit": "group"}, training=training, **changes)


def test_a_group_stands_at_one_site_or_is_held_out(folder: Path) -> None:
    world = World(grouped(folder))
    names = [{world._table.contents[row].name for row in world._rows[site]} for site in world.site_names]
    trained = set.union(*names)
    assert sum(map(len, names)) == len(trained) == sum(world.sizes.values())
    assert len(trained) + len(world.held_out) == PEOPLE
    assert all(len(group.contents) <= 2 for group in world._table.contents)
    assert world.workplace.oddities == (
        "60 rows are beyond data.rows_per_group=2 of their groups, and are left out",
    )


def test_the_order_of_a_files_rows_decides_nothing(folder: Path, tmp_path: Path) -> None:
    with (folder / "people.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (tmp_path / "shuffled.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *np.random.default_rng(0).permutation(np.array(rows))])
    one = World(grouped(folder))
    other = World(grouped(folder, data={"source": str(tmp_path / "shuffled.csv")}))
    assert other._table.contents == one._table.contents
    for name in one.site_names:
        first, second = one.examples(name), other.examples(name)
        batches = [each.batch(np.arange(len(each)), size=8) for each in (first, second)]
        for key, tensor in batches[0].inputs.items():
            torch.testing.assert_close(batches[1].inputs[key], tensor, rtol=0, atol=0)


def test_the_documented_job_reads_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    (text,) = re.findall(r"## Several rows a person\n```toml\n(.*?)```", page, re.DOTALL)
    random = np.random.default_rng(0)
    ages = random.integers(20, 90, 600)
    rows = [
        [f"p{n % 300}", age, ("surgery", "medicine")[n % 2], "yes" if age > 60 else "no"]
        for n, age in enumerate(ages)
    ]
    with (tmp_path / "visits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "age", "ward", "readmitted"], *rows])
    (tmp_path / "job.toml").write_text(text)
    settings = [
        f"data.source={tmp_path / 'visits.csv'}",
        "training.rounds=1",
        "training.physical_batch_size=8",
    ]
    world = World(read_job(tmp_path / "job.toml", settings=settings))
    assert sum(world.sizes.values()) + len(world.held_out) == 300
    check_privacy_unit(world.trainer.gradients, world.adapted.probe())


def test_sites_share_batches_and_are_charged_for_their_groups(folder: Path, tmp_path: Path) -> None:
    job = grouped(folder, metrics={"epsilon": 1.0}, aggregation={"kind": "masks"})
    world = World(job)
    run = simulate(job, runs=tmp_path)
    assert run.metrics is not None
    for name, groups in world.sizes.items():
        ledger = audit_ledger(run.folder / "sites" / name / "ledger.db")
        plans = [entry.event.plan for entry in ledger.entries if isinstance(entry.event, Begun)]
        assert plans[0] == plan_training(job, groups)
        assert [plan.unit for plan in plans] == ["group", "group"]
        assert plans[0].sampling_rate == 16 / groups
    audit_run(RunFolder.open(run.folder))  # receipts are of what the manifest asked for
    kept = RunFolder.open(run.folder)
    exported = tmp_path / "exported"
    exported.mkdir()
    card = make_card(kept, number=1, exported=exported)
    assert card.privacy.unit == "group"
    assert "for each group, at the site where it is largest: to make all rows of one group" in model_card(
        card, kept, exported
    )


@pytest.mark.exhaustive
def test_a_forecast_is_of_groups(folder: Path) -> None:
    found = forecast(grouped(folder))
    assert sum(site.examples for site in found.sites) == PEOPLE - 18  # held out


@pytest.mark.exhaustive
def test_a_table_has_groups_too(tmp_path: Path) -> None:
    with networks.write_table(tmp_path / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (tmp_path / "people.csv").open("w", newline="") as file:
        people = [[*row, f"p{number % 50}"] for number, row in enumerate(rows)]
        csv.writer(file).writerows([[*header, "person"], *people])
    keys = networks.TABULAR | {"group": "person", "rows_per_group": 3}
    privacy = {"unit": "group", "epsilon": 8.0, "delta": 1e-3}
    table = networks.job_table("tabular", tmp_path / "people.csv", keys, privacy=privacy)
    run = simulate(checked_job(parse_job(table)), runs=tmp_path / "runs", compare=True)
    assert len(run.rounds) == 2
    # Without noise a run is of the same groups.
    silent = RunFolder.open(run.folder / "compare" / "without-privacy").manifest.job
    assert (silent.privacy.mechanism, silent.privacy.unit, silent.data.rows_per_group) == (
        "none",
        "group",
        3,
    )
