"""A job for groups says whose a row is and how many count; a job for others says neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError
from tasks.group_task import GroupTask
from tasks.registry import checked_job, task_of
from tests import tiny

GROUPS = {"group": "person", "rows_per_group": 3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": GROUPS}, 'data.group: expected none with privacy.unit="example"'),
        ({"data": {"rows_per_group": 3}}, "data.rows_per_group: expected none"),
        ({"privacy": {"unit": "group"}}, "data.group: expected the column that says whose a row is"),
        (
            {"privacy": {"unit": "group"}, "data": {"group": "person"}},
            "data.rows_per_group: expected a public number of rows",
        ),
        (
            {
                "privacy": {"unit": "group"},
                "data": GROUPS,
                "federation": {"partition": {"column": "town"}},
            },
            'federation.partition: expected "iid"',
        ),
        (
            {
                "privacy": {"unit": "group"},
                "data": GROUPS,
                "federation": {"partition": {"dirichlet": 0.5}},
            },
            'federation.partition: expected "iid"',
        ),
        ({"privacy": {"unit": "group"}, "data": GROUPS | {"rows_per_group": 0}}, "rows_per_group"),
        (
            {"privacy": {"unit": "group", "noise": "central"}, "data": GROUPS},
            'privacy.unit: expected "site"',
        ),
    ],
)
def test_refuses_by_the_key_to_change(tiny_folder: Path, changes: Any, words: str) -> None:
    with pytest.raises(JobError) as refused:
        tiny.job(tiny_folder, **changes)
    assert words in str(refused.value)


def test_refuses_tasks_whose_examples_are_several_rows(tiny_folder: Path) -> None:
    job = tiny.job(tiny_folder, task="document-classification", data=GROUPS, privacy={"unit": "group"})
    with pytest.raises(JobError, match=r'privacy\.unit: .* task="document-classification"'):
        checked_job(job)


def test_the_tasks_rows_are_groups(tiny_folder: Path) -> None:
    job = checked_job(tiny.job(tiny_folder, data=GROUPS, privacy={"unit": "group"}))
    task = task_of(job)
    assert isinstance(task, GroupTask)
    assert (task.most, task.units.example, task.units.size) == (3, "group", "tokens")
    assert (job.privacy.sampled_unit, job.privacy.hides_sites) == ("group", False)
