"""Tasks whose network is their own: drawn alike everywhere, trained whole, checked, exported, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from client.custody.data_set import read_data_set
from client.custody.model_sources import local_source
from client.custody.site_file import DataSource
from confide import audit_run
from privacy.errors import DataError, JobError, ModelError
from protocol.job.job import Job, ModelSection
from protocol.job.job_file import parse_job, read_job_file
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.forecast.forecast import forecast
from simulation.simulate import simulate
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job
from tests.tasks.exported import exported_network
from tests.tasks.networks import (
    EVENTS,
    IMAGES,
    SERIES,
    SOUNDS,
    TABULAR,
    job_table,
    write_events,
    write_images,
    write_series,
    write_sounds,
    write_table,
)
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
TASKS = {
    "tabular": (TABULAR, write_table),
    "series-classification": (SERIES, write_series),
    "event-sequence": (EVENTS, write_events),
    "image-classification": (IMAGES, write_images),
    "audio-classification": (SOUNDS, write_sounds),
}
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}


def make_job(task: str, folder: Path, **changes: Any) -> Job:
    keys, write = TASKS[task]
    return checked_job(parse_job(job_table(task, write(folder / "data.csv"), keys, **changes)))


def adapt(job: Job) -> AdaptedModel:
    base = load_base_model(job, labels=tuple(job.data.model_extra["labels"]), device=CPU)
    return AdaptedModel(base, job=job, device=CPU)


@pytest.mark.parametrize("task", TASKS)
def test_an_examples_gradient_is_its_own(task: str, tmp_path: Path) -> None:
    job = make_job(task, tmp_path)
    assert check_own_gradients(lambda: adapt(job)).method.batched


@pytest.mark.parametrize("task", TASKS)
def test_all_of_it_is_trained_from_one_start_that_follows_from_the_seed(task: str, tmp_path: Path) -> None:
    job = make_job(task, tmp_path)
    torch.manual_seed(1)
    first, other = (
        adapt(job),
        adapt(job.model_copy(update={"seeds": job.seeds.model_copy(update={"adapter": 7})})),
    )
    torch.manual_seed(2)
    again = adapt(job)
    whole = sum(parameter.numel() for parameter in first.base.model.parameters()) // 2  # PEFT's two copies
    assert first.layout.trained_size == whole
    assert first.model_digest == again.model_digest != other.model_digest
    start = first.initial_adapter(0)
    assert np.array_equal(start, again.initial_adapter(0))
    for name, tensor in first.layout.split(start).items():
        if "classifier" in name:
            assert not tensor.any()
        elif tensor.ndim > 1:
            inputs = tensor[0].size
            # Uniform with the variance 2 / inputs; of so few numbers it is off by a third at most.
            assert tensor.var() == pytest.approx(2 / inputs, rel=1 / 3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.exhaustive(but=2)
def test_it_runs_under_masks_and_stock_torch_and_peft_load_what_is_exported(
    task: str, tmp_path: Path
) -> None:
    job = make_job(task, tmp_path)
    run = simulate(job, runs=tmp_path / "runs")
    assert {"auc", "balanced_accuracy", "brier", "calibration_error"} < run.measures.keys()
    assert all(value is not None and value <= 8.0 for value in run.epsilon.values())
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])

    folder, adapted = RunFolder.open(run.folder), adapt(job)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(
        adapted.task.made_up(adapted, np.random.default_rng(0), np.ones(5)).arrays["values"]
    )
    values = adapted.task.scaled(values, adapted.base.reader)
    expected = adapted.peft(values)
    assert expected.abs().max() > 0

    export_merged(folder, tmp_path / "merged")
    torch.testing.assert_close(exported_network(tmp_path / "merged")(values), expected)
    told = json.loads((tmp_path / "merged" / "network.json").read_text())
    assert told["made_of"]["labels"] == job.data.model_extra["labels"]
    assert len(told["inputs"]) == values.shape[1]

    export_adapter(folder, tmp_path / "adapter")
    base = load_base_model(job, labels=tuple(told["made_of"]["labels"]), device=CPU).model
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(values), expected)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=pytest.mark.exhaustive) if task == "audio-classification" else task
        for task in TASKS
    ],
)
@pytest.mark.statistics
def test_without_noise_it_learns(task: str, tmp_path: Path) -> None:
    training = {
        "rounds": 6,
        "local_steps": 4,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 1.0,
    }
    run = simulate(make_job(task, tmp_path, training=training, **NOT_PRIVATE), runs=tmp_path / "runs")
    # Who guesses is right about half the time.
    assert run.measures["accuracy"] > 0.8
    assert run.measures["auc"] > 0.85


def test_it_is_forecast(tmp_path: Path) -> None:
    found = forecast(make_job("tabular", tmp_path))
    # Two numbers with a flag, two categories, another and none: 8 inputs. 8·64 + 64, 64·64 + 64, 72·2 + 2.
    assert found.parameters == 4882


@pytest.mark.parametrize("name", ["fedsvd", "ffa", "fedit", "head", "scaffold", "rolora"])
def test_strategies_that_average_train_it(name: str, tmp_path: Path) -> None:
    adapted = adapt(make_job("tabular", tmp_path, strategy={"name": name}))
    for number in (1, 2):
        adapted.train_in(number)
        assert len(adapted.trained) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"source": "org/name"}}, 'model.source: expected "drawn" with task="tabular"'),
        (
            {"adapter": {"target_modules": ["first"]}},
            'adapter: expected no such section with model.source="drawn"',
        ),
        ({"strategy": {"name": "fedsb"}}, "strategy: expected one that averages all that is trained"),
        ({"strategy": {"name": "fedsa"}}, "strategy: expected one that averages all that is trained"),
        ({"strategy": {"keep_local": "head"}}, "strategy: expected one that averages all that is trained"),
        (
            {"task": "causal-lm", "data": {"source": "x"}},
            'model.source: expected a model that task="causal-lm"',
        ),
        (
            {"task": "causal-lm", "data": {"source": "x"}, "model": {"source": "org/name"}},
            "adapter.target_modules: expected names of layers",
        ),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    table = job_table("tabular", tmp_path / "x.csv", TABULAR) | changes
    with pytest.raises(JobError) as told:
        checked_job(parse_job(table))
    assert words in str(told.value)


def test_a_site_draws_it_without_a_line_for_it_and_loads_nothing_else(tmp_path: Path) -> None:
    assert local_source(ModelSection(source="drawn"), {}) == "drawn"
    with pytest.raises(ModelError, match="none of the models"):
        local_source(ModelSection(source="drawn/x"), {})
    (tmp_path / "drawn").mkdir()
    path = tmp_path / "job.toml"
    path.write_text('task = "tabular"\n[model]\nsource = "drawn"\n[data]\nsource = "x.csv"\n')
    assert read_job_file(path).model.source == "drawn"  # and not the folder beside the job


@pytest.mark.parametrize(
    ("task", "columns", "lacking"),
    [
        ("tabular", {"numbers": {"weight": [0, 1]}, "categories": {}}, "'height', 'home'"),
        ("series-classification", {"channels": {"x": [-4, 4]}}, "'y'"),
        ("event-sequence", {"numbers": {"spent": [0, 1]}}, "'amount'"),
    ],
)
def test_a_column_that_a_sites_data_are_read_without_is_refused_whatever_the_rows_hold(
    task: str, columns: dict[str, Any], lacking: str, tmp_path: Path
) -> None:
    job = make_job(task, tmp_path)
    keys, _ = TASKS[task]
    own = {key: value for key, value in keys.items() if key != "length"} | columns
    data = read_data_set("data", DataSource(source=str(tmp_path / "data.csv"), task=task, **own))
    with pytest.raises(DataError, match=f"{lacking}, which these data are read without"):
        data.examples(adapt(job), labels=data.labels)


def test_odd_cells_are_missing_or_others_and_only_their_own_row_changes(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    odd = [
        ["1.0", "north", "low"],
        ["inf", "north", "low"],
        ["1,5", "west", "high"],
        ["1e300", " south ", "high"],
        ["NA", "?", "low"],
        ["-0.0", "north", "neither"],
        ["1", "north", "high"],
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["height", "home", "kind"], *odd])
    keys = TABULAR | {"numbers": {"height": [-2.0, 2.0]}}
    data = read_data_set("odd", DataSource(source=str(path), task="tabular", **keys))
    assert data.blank == {
        "no content, or none that can be read": (4,),
        "no label, or one that is not declared": (5,),
    }
    assert data.rows.remarks == (
        "cells that hold no finite number, and count as missing: 2 in 'height'",
        "numbers outside their range, which are cut off at its ends: 1 in 'height'",
        "categories that are not declared, which count as others: 1 in 'home'",
    )
    examples = data.task.encode(data.columns.features, data.rows, labels=data.labels).examples
    missing, other, south = [0, 1], [0, 0, 1, 0], [0, 1, 0, 0]
    assert examples.arrays["values"].tolist() == [
        [0.5, 0, 1, 0, 0, 0],
        [*missing, 1, 0, 0, 0],
        [*missing, *other],
        [1, 0, *south],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0.5, 0, 1, 0, 0, 0],
    ]
    assert data.digests[0] == data.digests[6]  # 1.0 and 1, whatever the label
    assert len(set(data.digests)) == 6


def test_the_order_of_a_files_columns_does_not_matter(tmp_path: Path) -> None:
    orders = (["height", "home", "kind"], ["kind", "home", "height"])
    found = []
    for number, order in enumerate(orders):
        path = tmp_path / f"{number}.csv"
        row = {"height": "1.5", "home": "south", "kind": "low"}
        path.write_text(",".join(order) + "\n" + ",".join(row[name] for name in order) + "\n")
        keys = TABULAR | {"numbers": {"height": [-2.0, 2.0]}}
        data = read_data_set("data", DataSource(source=str(path), task="tabular", **keys))
        encoded = data.task.encode(data.columns.features, data.rows, labels=data.labels).examples
        found.append((data.digests, encoded.arrays["values"].tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"numbers": {"height": [2, -2]}}, "numbers.height: expected a lower end, then a higher one"),
        ({"numbers": {"height": [2]}}, "data.numbers.height: expected"),
        ({"numbers": {"kind": [0, 1]}}, "kind: expected a column to be one of"),
        ({"numbers": {"home": [0, 1]}}, "home: expected a column to be one of"),
        ({"categories": {"home": ["a", "NA"]}}, "categories.home: expected each once"),
        ({"categories": {"home": ["a", "a"]}}, "categories.home: expected each once"),
        ({"categories": {"home": [" a"]}}, "categories.home: expected each once"),
        ({"numbers": {}, "categories": {}}, "numbers: expected one column at least"),
        ({"labels": ["low", "low"]}, "labels: expected each once"),
        ({"labels": None}, "data.labels: expected the list of labels"),
        ({"label": None}, 'data.label: expected a column name for task="tabular"'),
        ({"number": {"height": [0, 1]}}, "did you mean 'numbers'"),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    keys = {key: value for key, value in (TABULAR | changes).items() if value is not None}
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("tabular", tmp_path / "x.csv", keys)))
    assert words in str(told.value)


def test_a_column_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.csv")
    keys = TABULAR | {"numbers": {"heigth": [-2.0, 2.0]}}
    with pytest.raises(DataError, match=r"data\.numbers='heigth': the data has no such column.*'height'"):
        simulate(parse_job(job_table("tabular", path, keys)), runs=tmp_path / "runs")
