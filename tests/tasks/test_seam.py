"""A task that nobody here knew of: one file of an installed package, and no other is changed for it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from confide import audit_run
from confide.cli import app
from privacy.errors import JobError
from protocol.job.job_file import parse_job
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.forecast.forecast import forecast
from simulation.simulate import simulate
from tasks.registry import checked_job, find_task, task_names
from tests.tasks.number_table import WEIGHTS, Net

COLUMNS = {"columns": ["height", "weight"], "label": "kind", "labels": ["low", "high"]}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with this entry point were installed."""
    folder = tmp_path / "site-packages" / "number_table-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: number-table\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[confide.tasks]\nnumber-table = tests.tasks.number_table:TASK\n"
    )
    monkeypatch.syspath_prepend(folder.parent)


def write_data(path: Path, *, odd: tuple[str, ...] = ()) -> Path:
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "weight", "kind"])
        for height, weight in random.standard_normal((160, 2)):
            writer.writerow([f"{height:.6f}", f"{weight:.6f}", "high" if height + weight > 0 else "low"])
        writer.writerows([cell, "1.0", "low"] for cell in odd)
    return path


def table(folder: Path, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    net = Net(2, 2)
    save_file({k: v for k, v in net.state_dict().items() if "classifier" not in k}, folder / WEIGHTS)
    return {
        "name": "numbers",
        "task": "number-table",
        "model": {"source": str(folder)},
        "adapter": {"rank": 2, "target_modules": ["first", "second"]},
        "data": {"source": str(write_data(folder / "numbers.csv")), "holdout": 0.2, **COLUMNS},
        "federation": {"sites": 3},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 16, "physical_batch_size": 8},
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
        "metrics": {"epsilon": 1.0},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
        **changes,
    }


def test_it_runs_under_masks_and_is_audited_and_exported(tmp_path: Path) -> None:
    run = simulate(parse_job(table(tmp_path)), runs=tmp_path / "runs")
    assert set(run.measures) == {"accuracy", "loss"}
    assert run.metrics is not None
    assert run.metrics.sites == {}  # only their sum was uncovered
    assert all(value is not None and value <= 8.0 for value in run.epsilon.values())
    assert "held-out accuracy" in run.report.read_text()
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])

    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    export_adapter(folder, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    merged, base = Net(2, 2), Net(2, 2)
    merged.load_state_dict(load_file(tmp_path / "merged" / WEIGHTS))
    base.load_state_dict(load_file(tmp_path / WEIGHTS), strict=False)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    made_up = torch.randn(5, 2)
    # Merged or not, products of at most 16 float32 numbers are added in another order.
    torch.testing.assert_close(merged(made_up), adapted(made_up), rtol=1e-4, atol=1e-5)
    assert merged.classifier.weight.any()


def test_without_noise_it_learns(tmp_path: Path) -> None:
    training = {"rounds": 6, "local_steps": 4, "batch_size": 16, "physical_batch_size": 8}
    job = parse_job(
        table(
            tmp_path,
            privacy={"mechanism": "none"},
            metrics={},
            seeds={"noise": 1},
            training=training | {"learning_rate": 2.0},
        )
    )
    run = simulate(job, runs=tmp_path / "runs")
    # The line between the labels goes through the middle: who guesses is right about half the time.
    assert run.measures["accuracy"] > 0.8


def test_it_is_forecast(tmp_path: Path) -> None:
    found = forecast(parse_job(table(tmp_path)))
    # B of rank 2 on both layers, and the head: 2 · 2 · 16 + 2 · 16 + 2.
    assert found.parameters == 98


def test_a_row_that_holds_no_numbers_is_a_blank_example_at_a_site(tmp_path: Path) -> None:
    path = write_data(tmp_path / "numbers.csv", odd=("tall", "", "nan", "1e300"))
    source = DataSource(source=str(path), task="number-table", **COLUMNS)
    data = read_data_set("numbers", source)
    assert (len(data), data.labels, len(data.digests)) == (164, ("low", "high"), 164)
    (blank,) = data.blank.values()
    assert blank == (160, 161, 162, 163)
    examples = data.task.encode(2, data.rows, labels=data.labels).examples
    assert len(examples) == 164
    assert np.flatnonzero(examples.sizes == 0).tolist() == list(blank)
    batch = examples.batch(np.array([0]), size=1, rows=3)
    assert (len(batch), batch.inputs["numbers"][1:].any()) == (3, False)
    assert not data.serves(find_task("causal-lm"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"source": "x", **COLUMNS, "column": ["height"]}}, "did you mean 'columns'"),
        ({"data": {"source": "x", **COLUMNS, "labels": "low"}}, "data.labels: expected a valid list"),
        ({"data": {"source": "x", **COLUMNS, "columns": []}}, "data.columns: expected one at least"),
        ({"task": "os"}, "task: expected one of sequence-classification, .*, number-table, got 'os'"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        checked_job(parse_job(table(tmp_path, **changes)))


def test_tasks_are_those_that_are_listed_or_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sequence-classification" in task_names()
    assert task_names()[-1] == "number-table"
    monkeypatch.undo()
    with pytest.raises(JobError, match=r"got 'tests\.tasks\.number_table'"):
        find_task("tests.tasks.number_table")


def test_it_is_listed() -> None:
    listed = CliRunner().invoke(app, ["tasks", "--json"], catch_exceptions=False)
    found = {task["name"]: task for task in json.loads(listed.stdout)["tasks"]}
    assert list(found) == list(task_names())
    assert found["number-table"]["job_keys"] == ["columns", "label", "labels"]
    assert found["causal-lm"]["measures"] == ["perplexity", "next-token accuracy"]
    lines = CliRunner().invoke(app, ["tasks"], catch_exceptions=False).stdout
    assert "number-table: which label a row of numbers has" in lines
