"""A task on groups: each row that counts is scored, and what is encoded depends on no other group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.errors import DataError
from simulation.simulated_federation import World
from tasks.data.folded_examples import FoldedExamples
from tasks.data.row_groups import Group
from tasks.data.rows import NO_CONTENT, Rows
from tasks.group_task import GroupTask, ledger_digests, refuses_groups
from tasks.registry import checked_job, find_task
from tests import tiny
from tests.models import adapt, bert, llama, make_job, random_adapter

LABELS = {"label": "label", "labels": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def grouped_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("groups")
    tiny.table(folder)
    data = {"group": "town", "rows_per_group": 4}
    job = tiny.job(folder, data=data, privacy={"unit": "group"}, federation={"sites": 1})
    return World(checked_job(job))


@pytest.mark.parametrize(
    "name", ["preferences", "rewards", "document-classification", "event-sequence", "image-text"]
)
def test_other_tasks_are_refused_by_name(name: str) -> None:
    refused = refuses_groups(find_task(name), None)
    assert refused is not None
    assert f'task="{name}"' in refused


def test_files_in_folders_are_refused_and_files_of_a_table_are_not() -> None:
    task = find_task("image-classification")
    assert refuses_groups(task, task.Columns.model_validate({"labels": ["a", "b"]})) is not None
    table = {"labels": ["a", "b"], "path": "file", "label": "kind"}
    assert refuses_groups(task, task.Columns.model_validate(table)) is None


@pytest.mark.parametrize(
    ("task", "build", "keys"),
    [
        ("sequence-classification", bert, LABELS),
        ("token-classification", lambda: bert(pooling="mean"), LABELS),
        ("multi-label-classification", bert, LABELS),
        ("causal-lm", llama, {}),
    ],
)
def test_measures_are_of_the_rows_that_count(task: str, build: Any, keys: Any) -> None:
    data = {"source": "none", "max_length": 64, "group": "person", "rows_per_group": 3} | keys
    targets = ("q_proj",) if build is llama else ("query", "value")
    adapted = adapt(build(), make_job(targets=targets, task=task, data=data, privacy={"unit": "group"}))
    adapted.load(random_adapter(adapted))
    assert isinstance(adapted.task, GroupTask)
    groups = adapted.task.made_up(adapted, np.random.default_rng(5), np.array([5, 8, 6, 7]))
    kept = groups.places[groups.there]
    assert len(kept) < groups.places.size  # some places are of no row
    with torch.no_grad():
        found = adapted.forward(groups.batch(np.arange(4), size=8))
        rows = adapted.task.of_rows.forward(adapted, groups.rows.batch(kept, size=8))
    owners = torch.from_numpy(np.nonzero(groups.there)[0])
    mean = torch.zeros(4).index_reduce(0, owners, rows.losses, "mean", include_self=False)
    torch.testing.assert_close(found.losses, mean)
    assert found.counted.tolist() == [int(rows.counted[owners == one].sum()) for one in range(4)]
    expected = rows.sums()
    assert found.sums().keys() == expected.keys()
    assert list(found.sums().values()) == pytest.approx(list(expected.values()), rel=1e-4)


def test_what_cannot_be_used_is_left_out_and_groups_without_a_row_are_blank(grouped_world: World) -> None:
    task, reader = grouped_world.adapted.task, grouped_world.adapted.base.reader
    groups = (
        Group("ann", ("good day", "bad night"), ("yes", "maybe")),  # one label is none of the job's
        Group("bob", (), ()),
        Group("eve", ("fine",), ("maybe",)),
    )
    rows = Rows(contents=groups, labels=(("yes",), (), ("maybe",)))
    found = task.encode(reader, rows, labels=("no", "yes"))
    assert isinstance(found.examples, FoldedExamples)
    assert found.examples.there.sum(1).tolist() == [1, 0, 0]
    assert (found.examples.sizes > 0).tolist() == [True, False, False]
    assert dict(found.blank) == {NO_CONTENT: (1, 2)}
    alone = task.encode(reader, rows.take([1]), labels=("no", "yes"))
    assert alone.examples.sizes.tolist() == [0]
    gone = task.encode(reader, replace(rows, contents=(None, groups[0], None)), labels=("no", "yes"))
    assert (gone.examples.sizes > 0).tolist() == [False, True, False]


def test_a_ledger_knows_groups_and_their_rows(grouped_world: World) -> None:
    task = grouped_world.adapted.task
    assert isinstance(task, GroupTask)
    group = Group("ann", ("good day", "bad night"), ("yes", "no"))
    of_rows = find_task("sequence-classification").digest
    assert ledger_digests(task, [group]) == (task.digest(group), of_rows("good day"), of_rows("bad night"))
    assert ledger_digests(find_task("sequence-classification"), ["good day"]) == (of_rows("good day"),)
    assert task.digest(group) == task.digest(Group("ann", ("other",), ("no",)))
    assert task.digest(None) != task.digest(group)


def test_groups_cannot_be_fewer_than_what_is_held_out_and_trained(tiny_folder: Path) -> None:
    """Towns are three groups: sites and held-out examples are dealt out of these."""
    data = {"group": "town", "rows_per_group": 4}
    job = checked_job(tiny.job(tiny_folder, data=data, privacy={"unit": "group"}))
    with pytest.raises(DataError, match="got no examples out of 3"):
        World(job)
