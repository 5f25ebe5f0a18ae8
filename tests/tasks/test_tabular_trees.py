"""Rows of a table with their leaves in public trees: read, trained, exported, refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from client.training.gradient_check import choose_gradients
from client.training.unit_check import check_privacy_unit
from confide import audit_run
from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.attributions import attribute
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.forecast.forecast import forecast
from simulation.simulate import simulate
from tasks.data.leaf_columns import LeafColumns
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.drawn_network import load_drawn
from tasks.model.tabular_network import TabularNetwork
from tasks.registry import checked_job, read_job, section_of
from tests.models import random_adapter
from tests.tasks.data.tree_texts import ONE_LEAF, TREE, saved, tree_text, write_trees
from tests.tasks.exported import exported_network
from tests.tasks.networks import EVENTS, TABULAR, job_table, write_table
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.test_network_task import CPU

WIDTH, LEAVES = 8, 7  # of the columns, and of the trees that ``write_trees`` writes


def table_of(folder: Path, **changes: Any) -> dict[str, Any]:
    source, trees = write_table(folder / "data.csv"), write_trees(folder / "model.txt")
    return job_table("tabular", source, TABULAR | {"trees": str(trees)}, **changes)


def make_job(folder: Path, **changes: Any) -> Job:
    return checked_job(parse_job(table_of(folder, **changes)))


def adapt(job: Job) -> AdaptedModel:
    base = load_base_model(job, labels=tuple(job.data.model_extra["labels"]), device=CPU)
    return AdaptedModel(base, job=job, device=CPU)


@pytest.mark.parametrize(
    ("trees", "words"),
    [
        ([TREE | {"left_child": "0 -1"}], "data.trees: Tree=0: left_child and right_child"),
        ([], "data.trees: trees: expected 1"),
    ],
)
def test_malformed_trees_are_refused_before_anything_is_read(
    trees: list[dict[str, str]], words: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    write_trees(tmp_path / "model.txt", trees)
    (tmp_path / "data.csv").write_text("none of the columns\n")
    with pytest.raises(ModelError) as told:
        adapt(job)
    assert words in str(told.value)


def test_trees_that_read_what_is_no_declared_number_are_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "model.txt").write_text(tree_text(names="home weight age"))
    with pytest.raises(ModelError, match=r"data\.trees: .* data\.numbers declares, got 'home', 'age'"):
        adapt(job)


def test_other_tasks_and_sites_have_no_such_key(tmp_path: Path) -> None:
    table = job_table("event-sequence", tmp_path / "x.csv", EVENTS | {"trees": "model.txt"})
    with pytest.raises(JobError, match=r"data\.trees: unknown key"):
        checked_job(parse_job(table))
    source = DataSource(source="x", task="tabular", **TABULAR, trees="model.txt")
    with pytest.raises(JobError, match=r"data\.trees: unknown key"):
        _ = source.columns
    with pytest.raises(JobError, match=r"data\.trees: expected"):
        checked_job(parse_job(job_table("tabular", tmp_path / "x.csv", TABULAR | {"trees": 3})))


def test_a_file_beside_the_job_is_that_one(tmp_path: Path) -> None:
    write_table(tmp_path / "data.csv")
    write_trees(tmp_path / "model.txt")
    path = tmp_path / "job.toml"
    path.write_text(
        'task = "tabular"\n[model]\nsource = "drawn"\n[data]\nsource = "data.csv"\nlabel = "kind"\n'
        'labels = ["low", "high"]\ntrees = "model.txt"\n[data.numbers]\nheight = [-2, 2]\n'
        "[privacy]\nepsilon = 3.0\ndelta = 1e-3\n"
    )
    assert read_job(path).data.model_extra["trees"] == str(tmp_path / "model.txt")


def test_a_rows_leaves_stand_beside_its_columns_and_follow_from_it_alone(tmp_path: Path) -> None:
    text, rows, leaves = saved("nan")
    (tmp_path / "model.txt").write_text(text)
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "kind", "weight", "height"])
        for height, weight, age in rows:
            cells = ["NA" if np.isnan(one) else repr(float(one)) for one in (height, weight, age)]
            writer.writerow([cells[2], "low", cells[1], cells[0]])
    keys = {"label": "kind", "labels": ["low", "high"]}
    # Narrow ranges: trees see what a cell says, and not where it is cut off.
    keys |= {"numbers": {name: [-0.1, 0.1] for name in ("age", "height", "weight")}}
    data = read_data_set("data", DataSource(source=str(path), task="tabular", **keys))
    whole = keys | {"trees": str(tmp_path / "model.txt")}
    adapted = adapt(checked_job(parse_job(job_table("tabular", path, whole))))
    reader = adapted.base.reader
    assert isinstance(reader, LeafColumns)
    kept = data.examples(adapted, labels=data.labels).arrays["values"]
    assert kept.shape == (len(rows), 6 + 3)
    opened = reader.opened(torch.from_numpy(kept))
    assert opened.shape == (len(rows), reader.width) == (len(rows), len(reader.inputs))
    plain = data.columns.features.encode(data.rows.contents)
    np.testing.assert_array_equal(opened[:, :6].numpy(), plain)
    starts = 6 + np.concatenate([[0], np.cumsum(reader.trees.sizes)[:-1]])
    # The first row holds nothing, and so has no leaf.
    assert data.blank == {"no content, or none that can be read": (0,)}
    assert not opened[0].any()
    for row in range(1, len(rows)):
        assert np.flatnonzero(opened[row, 6:]).tolist() == (starts + leaves[row] - 6).tolist()
        alone = reader.encode([data.rows.contents[row]])
        np.testing.assert_array_equal(alone[0], kept[row])
    assert reader.inputs[int(starts[2]) + 4] == "leaf 4 of tree 2"


@pytest.mark.parametrize("cell", ["1e308", "-1e308", "inf", "nan", "1,5", "x" * 500, "٣", "0x10", ""])
def test_no_cell_raises(cell: str, tmp_path: Path) -> None:
    reader = adapt(make_job(tmp_path)).base.reader
    contents = reader.features.read({"height": [cell, "0"], "weight": ["0.2", "0"], "home": ["", "north"]})
    found = reader.encode(contents)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[1:], reader.encode(contents[1:]))


def test_an_examples_gradient_is_its_own(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    compared = check_own_gradients(lambda: adapt(job))
    assert compared.method.batched
    examples = compared.adapted.probe()
    reader = compared.adapted.base.reader
    assert reader.opened(torch.from_numpy(examples.arrays["values"]))[:, WIDTH:].any()


def test_other_trees_are_another_model_and_none_the_one_that_it_was(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    first = adapt(job)
    (tmp_path / "model.txt").rename(tmp_path / "elsewhere.txt")
    own = job.data.model_copy(update={"trees": str(tmp_path / "elsewhere.txt")})
    assert adapt(job.model_copy(update={"data": own})).model_digest == first.model_digest
    write_trees(tmp_path / "model.txt", [TREE, ONE_LEAF, TREE | {"threshold": "0.5 -0.26"}])
    other = adapt(job)  # as large, and drawn alike
    assert other.layout == first.layout
    assert other.model_digest != first.model_digest
    # Without trees nothing is in the digest that was not there before.
    bare = job.model_copy(update={"data": job.data.model_copy(update={"trees": None})})
    features = section_of(bare).features
    drawn = load_drawn(
        lambda: TabularNetwork(inputs=WIDTH, labels=["low", "high"], width=64),
        seed=job.seeds.adapter,
        last="classifier",
        reads=features.as_table(),
        reader=features,
    )
    assert adapt(bare).model_digest == drawn.digest


def test_groups_of_rows_have_leaves_and_so_has_a_forecast(tmp_path: Path) -> None:
    table = table_of(tmp_path, privacy={"unit": "group", "epsilon": 8.0, "delta": 1e-3})
    table["data"] |= {"group": "home", "rows_per_group": 3}
    method = choose_gradients(adapt(checked_job(parse_job(table))))
    check_privacy_unit(method, method.adapted.probe())
    # 15 inputs. 15·64 + 64, 64·64 + 64, 79·2 + 2.
    assert forecast(make_job(tmp_path)).parameters == 5344


def test_a_run_under_masks_is_exported_with_the_same_logits(tmp_path: Path) -> None:
    job = make_job(tmp_path, privacy={"epsilon": 3.0, "delta": 1e-3})
    run = simulate(job, runs=tmp_path / "runs")
    assert all(value is not None and value <= 3.0 for value in run.epsilon.values())
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])

    folder, adapted = RunFolder.open(run.folder), adapt(job)
    adapter = folder.load_adapter(2, adapted.layout)
    adapted.load(adapter)
    adapted.peft.eval()
    examples = adapted.task.made_up(adapted, np.random.default_rng(0), np.ones(6))
    values = adapted.base.reader.opened(torch.from_numpy(examples.arrays["values"]))
    expected = adapted.peft(values)
    assert values.shape == (6, WIDTH + LEAVES)
    assert expected.abs().max() > 0

    export_merged(folder, tmp_path / "merged")
    torch.testing.assert_close(exported_network(tmp_path / "merged")(values), expected)
    told = json.loads((tmp_path / "merged" / "network.json").read_text())
    assert told["made_of"]["inputs"] == len(told["inputs"]) == WIDTH + LEAVES
    assert told["inputs"][WIDTH:] == [
        *(f"leaf {leaf} of tree 0" for leaf in range(3)),
        "leaf 0 of tree 1",
        *(f"leaf {leaf} of tree 2" for leaf in range(3)),
    ]


def test_what_counts_in_an_answer_is_told_by_tree(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    adapted = adapt(make_job(tmp_path))
    examples = adapted.task.made_up(adapted, np.random.default_rng(0), np.ones(3))
    examples = replace(examples, labels=np.array([0, 1, 0]))
    found = attribute(adapted, random_adapter(adapted), examples)
    assert len(found[0].shares) == 3 + 3  # columns, and trees
    assert max(one.gap for one in found) < 1e-3
