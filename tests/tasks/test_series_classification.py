"""Series: rows by entity in order of time, whatever order they come in, at a public length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.data_section import SourceKeys
from protocol.job.job_file import parse_job
from tasks.data.read_table import read_table
from tasks.data.series_columns import SeriesColumns
from tasks.registry import checked_job
from tests.tasks.networks import SERIES, job_table

KEYS = {key: value for key, value in SERIES.items() if key != "length"} | {"channels": {"x": [0.0, 4.0]}}
TS = """\
# a comment
@problemName made-up
@timestamps false
@classLabel true up down
@data
1,2,3:10,20:up
4,?:30,40:down
"""


def read(path: Path, rows: list[str]) -> object:
    path.write_text("\n".join(["machine,when,x,kind", *rows]) + "\n")
    return read_data_set("data", DataSource(source=str(path), task="series-classification", **KEYS))


def test_entities_are_examples_in_order_of_time(tmp_path: Path) -> None:
    data = read(
        tmp_path / "a.csv",
        [
            "b,2,4,fall",
            "a,10,1,rise",
            "b,1,0,fall",
            "a,9,nan,rise",
            "a,11,9,rise",
            ",3,1,fall",
            "b,noon,1,fall",
        ],
    )
    assert len(data) == 2
    assert data.rows.labels == ("fall", "rise")
    assert data.rows.remarks == ("2 rows have no entity or no time, and are left out",)
    values = SeriesColumns(channels={"x": (0.0, 4.0)}, length=4).encode(data.rows.contents)
    assert values.tolist() == [
        [[-1, 1, 0, 0], [1, 1, 0, 0]],
        [[0, -0.5, 1, 0], [0, 1, 1, 0]],  # what is missing is 0 and said to be; 9 is cut off at 4
    ]
    cut = SeriesColumns(channels={"x": (0.0, 4.0)}, length=2).encode(data.rows.contents)
    assert np.array_equal(cut, values[:, :, :2])


def test_days_are_times_and_an_entity_with_two_labels_or_no_moment_is_blank(tmp_path: Path) -> None:
    data = read(
        tmp_path / "a.csv",
        [
            "a,2024-01-02,2,rise",
            "a,2024-01-01T12:00:00+00:00,1,rise",
            "b,1,1,rise",
            "b,2,1,fall",
            "c,never,1,fall",
        ],
    )
    assert data.blank == {
        "no content, or none that can be read": (2,),
        "no label, or one that is not declared": (1,),
    }
    assert data.rows.contents[0] == (("x",), (("1.0",), ("2.0",)))


def test_the_same_series_under_another_name_is_the_same_example(tmp_path: Path) -> None:
    one = read(tmp_path / "a.csv", ["a,1,1.0,rise", "a,2,2,rise"])
    other = read(tmp_path / "b.csv", ["z,8,2.00,fall", "z,7,1,fall"])
    assert one.digests == other.digests


def test_the_archives_files_are_tables(tmp_path: Path) -> None:
    path = tmp_path / "made-up.ts"
    path.write_text(TS)
    table = read_table(SourceKeys(source=str(path)), columns=["case", "time", "label", "1", "2"])
    columns = {name: column.values for name, column in table.columns.items()}
    assert columns == {
        "case": ("0", "0", "0", "1", "1"),
        "time": ("0", "1", "2", "0", "1"),
        "label": ("up", "up", "up", "down", "down"),
        "1": ("1", "2", "3", "4", None),
        "2": ("10", "20", None, "30", "40"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TS.replace("@data", ""), "has no line @data"),
        (
            TS.replace("4,?:30,40:down", "4,?:down"),
            "line 7 has 1 channels, expected 2 as in the first case",
        ),
        (TS.replace("1,2,3:10,20:up", "(0,1),(1,2):up"), "line 6 has times of its own"),
        (TS.replace("4,?:30,40:down", "down"), "line 7 has a label and no series"),
    ],
)
def test_a_file_of_the_archives_that_is_wrong_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.ts"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_table(SourceKeys(source=str(path)), columns=["case", "1"])


def test_sites_by_a_column_are_refused(tmp_path: Path) -> None:
    table = job_table(
        "series-classification", tmp_path / "x.csv", SERIES, federation={"partition": {"column": "x"}}
    )
    with pytest.raises(JobError, match=r"federation\.partition: expected"):
        checked_job(parse_job(table))
