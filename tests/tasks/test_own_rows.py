"""A job's own rows: whoever simulates or evaluates hears of every row that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import DataError
from tasks.data.rows import Rows
from tasks.own_rows import label_names, read_own_column, read_own_rows, read_validation_rows
from tests import tiny


def read(folder: Path, source: Path, **data: Any) -> Rows:
    return read_own_rows(tiny.job(folder, data={"source": str(source), **data}))


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_encodings_quotes_and_line_breaks(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes('text,label\n"said ""na\xefve""\nand left",yes\nplain,no\n'.encode("latin-1"))
    assert read(tiny_folder, path, encoding="latin-1").contents[0] == 'said "naïve"\nand left'
    with pytest.raises(DataError, match=r"row 1 has no value: .*data\.encoding='utf-8'"):
        read(tiny_folder, path)


def test_numbers_as_labels_stay_as_written(tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "text,label\na,01\nb,1\n")
    assert read(tiny_folder, path).labels == ("01", "1")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\na,yes\n  ,no\n", r"data: row 2 has no value: nothing is there \(1 in all\)"),
        ("a.csv", "text,label\na,yes\nb,\n", r"data\.label: row 2 has no value: nothing is there"),
        ("a.jsonl", '{"text": "a", "label": "yes"}\n{"text": "b", "label": null}\n', "row 2 has no value"),
        ("a.jsonl", '{"text": "a", "label": "yes"}\n{"text": "b"}\n', "row 2 has no value"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n{"text": "b", "label": 1}\n', "row 1 .* holds a list"),
    ],
)
def test_a_missing_value_is_named_by_its_row(
    tiny_folder: Path, tmp_path: Path, name: str, content: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read(tiny_folder, write(tmp_path / name, content))


def test_a_column_of_groups_is_read_as_it_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label,zip\na,yes,01234\nb,no,1234\nc,no,1e5\nd,no,100000\n")
    job = tiny.job(tiny_folder, data={"source": str(path)})
    assert read_own_column(job, "zip", key="k") == ("01234", "1234", "1e5", "100000")
    write(path, "text,label,zip\na,yes,01234\nb,no, \n")
    with pytest.raises(DataError, match="k: row 2 has no value: nothing is there"):
        read_own_column(job, "zip", key="k")


def test_validation_is_read_like_the_source_and_named(tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "held.csv", "text;label\na;yes\nb;no\n")
    data = {"source": str(path), "validation": str(path), "separator": ";", "holdout": None}
    found = read_validation_rows(tiny.job(tiny_folder, data=data))
    assert found is not None
    assert found.contents == ("a", "b")
    assert read_validation_rows(tiny.job(tiny_folder)) is None
    write(path, "text;label\na;yes\nb;\n")
    with pytest.raises(DataError, match=r"data\.validation: data\.label: row 2 has no value"):
        read_validation_rows(tiny.job(tiny_folder, data=data))


def test_labels_keep_the_jobs_order() -> None:
    table = Rows(contents=("a", "b"), labels=("yes", "no"))
    assert label_names(table, declared=()) == ("no", "yes")
    assert label_names(table, declared=("yes", "maybe", "no")) == ("yes", "maybe", "no")
    held_out = Rows(contents=("c",), labels=("maybe",))
    assert label_names(table, declared=(), held_out=held_out) == ("maybe", "no", "yes")


@pytest.mark.parametrize(
    ("labels", "declared", "words"),
    [
        (("yes", "yes"), ("no", "yes"), "every example has the label 'yes'"),
        (("yes", "never"), ("yes", "no"), "got 'never'; add it to data.labels"),
        (("yes", "no "), ("yes", "no"), "got 'no '; take the spaces around 'no' out of the data"),
        (("yes", "n\to"), (), r"that can all be seen, got 'n\\to'"),
        (("yes", "no" * 300), (), "labels of up to 500 characters"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(
    labels: tuple[str, ...], declared: tuple[str, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        label_names(Rows(contents=("a", "b"), labels=labels), declared=declared)
