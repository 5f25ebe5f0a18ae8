"""Reading a source: every file of the documentation's table, and what nobody wrote on purpose."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.errors import DataError, ModelError
from protocol.job.data_section import SourceKeys
from tasks.data import read_table as module
from tasks.data.file_kinds import SUFFIXES
from tasks.data.read_table import read_table
from tasks.data.rows import Rows
from tasks.own_rows import check_whole
from tasks.sequence_classification import TASK
from tests.tasks.data.file_table import DOCUMENT, documented
from tests.tasks.data.read_files import (
    LABELS,
    READ,
    TEXTS,
    FileCase,
    as_arrow,
    as_parquet,
    delimited,
    lines,
    raw,
    table,
    text,
)
from tests.tasks.data.refused_files import REFUSED

COLUMNS = TASK.Columns(text="text", label="label", labels=list(LABELS))


def read(path: Path, **keys: str) -> Rows:
    return TASK.read(SourceKeys(source=str(path), **keys), COLUMNS)


def read_whole(path: Path, **keys: str) -> Rows:
    rows = read(path, **keys)
    check_whole(rows.contents, key="data", faults=rows.faults)
    return rows


def skip_without_openpyxl(case: FileCase) -> None:
    if case.name.endswith(".xlsx"):
        pytest.importorskip("openpyxl")


@pytest.mark.parametrize("case", READ, ids=str)
def test_what_is_read(case: FileCase, tmp_path: Path) -> None:
    skip_without_openpyxl(case)
    case.write(tmp_path / case.name)
    found = read_whole(tmp_path / case.name, **case.keys)
    assert found.contents == TEXTS
    assert found.labels == LABELS


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_is_refused(case: FileCase, tmp_path: Path) -> None:
    skip_without_openpyxl(case)
    path = tmp_path / case.name
    case.write(path)
    with pytest.raises(DataError) as caught:
        read_whole(path, **case.keys)
    assert str(caught.value).replace(str(path), "FILE") == case.said
    assert "secret" not in str(caught.value)  # which is in the cells


def test_the_documentation_has_these_tables() -> None:
    assert DOCUMENT.read_text("utf-8") == documented()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".csv.gz", ".json.zst"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    try:
        read(path)
    except DataError as error:
        assert str(path) in str(error) or "no such column" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", as_parquet(table())),
        ("a.arrow", as_arrow(table())),
        ("file.arrow", as_arrow(table(), new=pa.ipc.new_file)),
        ("a.jsonl", lines().encode()),
        ("a.csv", delimited().encode()),
    ],
)
@pytest.mark.exhaustive(but=2)
def test_damage_anywhere_ends_in_a_sentence_or_in_text(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    for place in range(0, len(content), max(1, len(content) // 60)):
        for damaged in (content[:place], content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :]):
            path.write_bytes(damaged)
            try:
                found = read(path)
            except DataError:
                continue
            assert all(cell is None or isinstance(cell, str) for cell in found.contents)


def test_other_columns_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = table().append_column("odd", pa.array([{"a": [1]}] * 4)).append_column("odd", pa.nulls(4))
    path.write_bytes(as_parquet(whole))
    assert read(path).contents == TEXTS
    text('odd,text,odd,label\n\0,a,"x\ny",yes\n')(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv").contents == ("a",)
    text('{"text": "a", "label": "yes", "odd": {"x": 1}}\n{"text": "b", "label": "no", "odd": "\\ud800"}')(
        tmp_path / "a.jsonl"
    )
    assert read(tmp_path / "a.jsonl").contents == ("a", "b")


def test_rows_of_any_length_are_read(tmp_path: Path) -> None:
    long = "night and day " * 300_000  # 4 MB
    text(f"text,label\nshort,no\n{long},yes\n")(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv").contents == ("short", long)


def test_what_one_row_holds_decides_about_that_row_alone(tmp_path: Path) -> None:
    raw(b'text,label\ngood,yes\nb\xe9d,no\nsec\0ret,yes\n,no\n" ",yes\nfine,\nlate,no\n')(
        tmp_path / "a.csv"
    )
    found = read(tmp_path / "a.csv")
    assert found.contents == ("good", None, None, None, None, "fine", "late")
    assert found.labels == ("yes", "no", "yes", "no", "yes", None, "no")
    assert sorted(found.faults) == [1, 2]
    assert found.take([2, 0]).faults == {0: "column 'text' holds a zero byte"}


def test_faults_in_parts_name_the_part(tmp_path: Path) -> None:
    text(delimited())(tmp_path / "a.csv")
    raw(b"text,label\nfine,yes\n\xe9,no\n")(tmp_path / "b.csv")
    found = read(tmp_path)
    assert found.faults == {
        5: "column 'text' cannot be decoded by data.encoding='utf-8' (row 2 of 'b.csv')"
    }


def test_what_is_neither_file_nor_folder_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / "socket.csv"))
        with pytest.raises(DataError, match="neither a file nor a folder"):
            read(tmp_path / "socket.csv")
    with pytest.raises(DataError, match=r"data\.source: no such file|cannot be read|File name too long"):
        read(tmp_path / ("long" * 200 + ".csv"))
    with pytest.raises(DataError, match="download it first"):
        TASK.read(SourceKeys(source="hf://datasets/x/y.csv"), COLUMNS)
    with pytest.raises(ModelError, match="not installed"):
        TASK.read(SourceKeys(source="package:no_such_package/data.csv"), COLUMNS)


@pytest.mark.parametrize("at", ["find_files", "check_file"])
def test_what_may_not_be_read_is_said(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs tests as root may read everything."""
    text(delimited())(tmp_path / "a.csv")

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module, at, refuse)
    with pytest.raises(DataError, match=r"a\.csv.*: Permission denied"):
        read(tmp_path / "a.csv")


def test_openpyxl_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    raw(b"PK\x03\x04 and more")(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"pip install 'confide\[excel\]'"):
        read(tmp_path / "a.xlsx")


def test_a_column_may_be_asked_for_twice(tmp_path: Path) -> None:
    text(delimited())(tmp_path / "a.csv")
    keys = SourceKeys(source=str(tmp_path / "a.csv"))
    assert read_table(keys, columns=["text", "text"]).column("text", key="data.text") == TEXTS
