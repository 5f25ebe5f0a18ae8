"""What a job may ask to be counted, and the bin of each example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError
from privacy.mechanisms.histograms import NOWHERE, count_places
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tasks.asked_statistics import Asked, asked_of, places_of
from tasks.data.rows import Rows
from tasks.registry import checked_job, find_task, section_of
from tests import tiny

TABLE = """\
age,home,status
17.5,owner,good
18,rent,bad
24.9,castle,good
25,,good
40, owner ,bad
?,rent,good
,,bad
1e3,owner,good
30,rent,odd
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "table.csv").write_text(TABLE)
    return table_job(tmp_path)


def table_job(folder: Path, **sections: Any) -> Job:
    table: dict[str, Any] = {
        "task": "tabular",
        "model": {"source": "drawn"},
        "data": {
            "source": str(folder / "table.csv"),
            "label": "status",
            "labels": ["good", "bad", "never"],
            "numbers": {"age": [18, 40]},
            "categories": {"home": ["owner", "rent", "parents"]},
        },
        "strategy": {"name": "fedit"},
        "statistics": {
            "epsilon": 1.0,
            "labels": True,
            "numbers": {"age": {"edges": [18, 25, 40]}},
            "categories": ["home"],
        },
    }
    return checked_job(parse_job(table | sections))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": True}, "statistics.epsilon: missing"),
        ({"epsilon": 1.0}, "expected something to count"),
        ({"epsilon": 0.0, "labels": True}, "statistics.epsilon: expected greater than or equal to"),
        ({"epsilon": 1.0, "lengths": {}}, "statistics.*expected either edges, or a range"),
        (
            {"epsilon": 1.0, "lengths": {"edges": [0, 9], "range": [0, 9]}},
            "expected either edges, or a range",
        ),
        ({"epsilon": 1.0, "lengths": {"edges": [0, 20, 10]}}, "edges: expected each above the one before"),
        ({"epsilon": 1.0, "lengths": {"edges": [0, 10, 10]}}, "edges: expected each above the one before"),
        ({"epsilon": 1.0, "lengths": {"range": [9, 0]}}, "range: expected each above the one before"),
        (
            {"epsilon": 1.0, "lengths": {"range": [1, 1.0000000000000002], "bins": 9}},
            "range: expected each",
        ),
        ({"epsilon": 1.0, "lengths": {"edges": [0, 9], "bins": 3}}, "bins: expected none beside edges"),
        (
            {"epsilon": 1.0, "lengths": {"range": [0, 9], "bins": 0}},
            "bins: expected greater than or equal to 1",
        ),
        ({"epsilon": 1.0, "categories": ["home", "home"]}, "categories: expected each column once"),
        ({"epsilon": 1.0, "numbers": {"town": {"range": [0, 9]}}}, "statistics.numbers: expected columns"),
        ({"epsilon": 1.0, "categories": ["town"]}, "statistics.categories: expected columns"),
        ({"epsilon": 1.0, "labels": True, "heights": True}, "statistics.heights: unknown key"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        checked_job(tiny.job(tmp_path, statistics=wrong))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 3.0}}, 'privacy.unit="site"'),
        (
            {"privacy": {"unit": "group"}, "data": {"group": "person", "rows_per_group": 2}},
            'privacy.unit="group"',
        ),
        ({"aggregation": {"kind": "homomorphic"}}, 'aggregation.kind="masks" or "none"'),
    ],
)
def test_some_jobs_go_with_no_statistics(tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    masks = {"aggregation": {"kind": "masks"}}
    with pytest.raises(JobError, match=said):
        tiny.job(tmp_path, statistics={"epsilon": 1.0, "labels": True}, **(masks | sections))


def test_labels_are_those_that_the_job_declares(tmp_path: Path) -> None:
    asked = {"epsilon": 1.0, "labels": True}
    job = tiny.job(
        tmp_path,
        task="causal-lm",
        model={"pooling": "model"},
        data={"label": None, "labels": None},
        statistics=asked,
    )
    with pytest.raises(JobError, match=r"statistics\.labels: expected the list of labels in data\.labels"):
        checked_job(job)
    job = tiny.job(tmp_path, task="multi-label-classification", data={"label": "label"}, statistics=asked)
    with pytest.raises(JobError, match=r"statistics\.labels: expected false.*have several"):
        checked_job(job)


def test_an_account_of_many_events_has_no_cells_to_count(tmp_path: Path) -> None:
    """Its rows are no row of a table: counting them would fail by what they hold, after the charge."""
    data = {
        "source": str(tmp_path / "events.csv"),
        "entity": "account",
        "time": "time",
        "label": "status",
        "labels": ["good", "bad"],
        "numbers": {"amount": [0, 9]},
        "length": 8,
    }
    asked = {"epsilon": 1.0, "numbers": {"amount": {"range": [0, 9]}}}
    with pytest.raises(JobError, match=r"statistics\.numbers: expected columns"):
        table_job(tmp_path, task="event-sequence", data=data, statistics=asked)


def test_no_cell_is_a_reason_to_fail(job: Job) -> None:
    """A custodian may have declared the column otherwise: it holds what it likes, and counts as missing."""
    section, task = section_of(job), find_task(job.task)
    assert job.statistics is not None
    asked = [one for one in asked_of(job.statistics, section) if one.kind == "numbers"]
    reader = task.open_reader(job.model.source, section)
    found = {}
    for cell in ("20", "suspected", "inf", "1_0", ""):
        rows = Rows(contents=((("age", cell), ("home", "rent")),), labels=("good",))
        found[cell] = places_of(asked, rows, reader=reader, task=task, labels=("good", "bad", "never"))
    missing = found[""].tolist()
    assert found.pop("20").tolist() != missing
    assert all(places.tolist() == missing for places in found.values())


def test_rows_have_no_lengths(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"statistics\.lengths.*counted in rows, and not in tokens"):
        table_job(tmp_path, statistics={"epsilon": 1.0, "lengths": {"range": [0, 9]}})


def test_each_row_of_a_table_is_in_one_bin_of_each(job: Job) -> None:
    section, task = section_of(job), find_task(job.task)
    assert job.statistics is not None
    asked = asked_of(job.statistics, section)
    assert [(one.kind, one.column, one.size) for one in asked] == [
        ("labels", "", 3),
        ("numbers", "age", 5),
        ("categories", "home", 5),
    ]
    rows = task.read(job.data, section)
    reader = task.open_reader(job.model.source, section)
    places = places_of(asked, rows, reader=reader, task=task, labels=("good", "bad", "never"))
    assert places.tolist() == [
        [0, 0, 0],  # below the first edge
        [1, 1, 1],  # at an edge, from which its bin goes up
        [0, 1, 3],  # a category that is not declared
        [0, 2, 4],  # and one that is missing
        [1, 3, 0],  # at the last edge
        [0, 4, 1],  # a number that is missing
        [NOWHERE] * 3,  # nothing at all: a blank example
        [0, 3, 0],
        [NOWHERE] * 3,  # a label that is not declared: a training would leave it blank
    ]
    counts = [counted.tolist() for counted in count_places(places, [one.size for one in asked]).counts]
    assert [[count >> 30 for count in one] for one in counts] == [
        [5, 2, 0],  # the last label is nobody's
        [1, 2, 1, 2, 1],
        [3, 2, 0, 1, 1],
    ]


def test_lengths_are_in_tokens_and_not_cut(tmp_path: Path) -> None:
    job = checked_job(
        tiny.job(
            tmp_path,
            data={"max_length": 4},
            statistics={"epsilon": 1.0, "lengths": {"edges": [3, 5, 8]}},
        )
    )
    task, section = find_task(job.task), section_of(job)
    reader = task.open_reader(job.model.source, section)
    rows = Rows(contents=("good", "good day late", "good " * 20, None), labels=("yes", "no", "yes", "no"))
    asked = (Asked(kind="lengths", cuts=(3.0, 5.0, 8.0)),)
    found = places_of(asked, rows, reader=reader, task=task, labels=("no", "yes"))
    # Two more than there are words.
    assert found.tolist() == [[1], [2], [3], [NOWHERE]]
