"""Cells as text: one conversion, whatever the file."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cells import Column, column_of
from tasks.data.read_table import read_table

DAY, TIME = dt.date(2024, 1, 2), dt.time(12, 30)
MOMENT = dt.datetime(2024, 1, 2, 12, 30, 0, 500000)
UTC = MOMENT.replace(tzinfo=dt.UTC)
NAMES = pa.array(["no", "yes", None, "no"])


def read(path: Path, **keys: str) -> tuple[str | None, ...]:
    return read_table(SourceKeys(source=str(path), **keys), columns=["c"]).column("c", key="data.c")


def from_parquet(folder: Path, cells: Any, **keys: str) -> tuple[str | None, ...]:
    parquet.write_table(pa.table({"c": cells}), folder / "a.parquet")
    return read(folder / "a.parquet", **keys)


def from_arrow(folder: Path, cells: Any) -> tuple[str | None, ...]:
    content = pa.table({"c": cells})
    with pa.ipc.new_stream(str(folder / "a.arrow"), content.schema) as writer:
        writer.write_table(content)
    return read(folder / "a.arrow")


def from_json(folder: Path, *cells: str) -> tuple[str | None, ...]:
    (folder / "a.jsonl").write_text("".join(f'{{"c": {cell}}}\n' for cell in cells))
    return read(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array(["01", "", None]), ("01", "", None)),
        (pa.array(["a", None], pa.large_string()), ("a", None)),
        (pa.array(["a", None], pa.string_view()), ("a", None)),
        (NAMES.dictionary_encode(), ("no", "yes", None, "no")),
        (pa.array([1, -2, None]), ("1", "-2", None)),
        (pa.array([2**64 - 1], pa.uint64()), ("18446744073709551615",)),
        (pa.array([1.0, 0.1, 1e-7, 1e22, None]), ("1.0", "0.1", "1e-07", "1e+22", None)),
        (pa.array([0.1, 1.0], pa.float32()), ("0.1", "1.0")),
        (pa.array([0.1], pa.float16()), ("0.1",)),
        (pa.array([float("nan"), float("inf")]), (None, None)),
        (pa.array([True, False, None]), ("true", "false", None)),
        (pa.array([Decimal("1.50"), Decimal("100000.00")]), ("1.50", "100000.00")),
        (pa.array([DAY, None]), ("2024-01-02", None)),
        (pa.array([DAY], pa.date64()), ("2024-01-02",)),
        (pa.array([TIME]), ("12:30:00",)),
        (pa.array([MOMENT], pa.timestamp("ns")), ("2024-01-02 12:30:00.5",)),
        (pa.array([MOMENT.replace(microsecond=0)], pa.timestamp("us")), ("2024-01-02 12:30:00",)),
        (pa.array([UTC], pa.timestamp("ms", "UTC")), ("2024-01-02 12:30:00.5Z",)),
        (pa.array([UTC], pa.timestamp("s", "UTC")), ("2024-01-02 12:30:00Z",)),
        (pa.array([b"day", b"\xff", None], pa.binary()), ("day", None, None)),
        (pa.nulls(2), (None, None)),
    ],
    ids=str,
)
def test_columns_with_types_are_text(tmp_path: Path, cells: Any, expected: tuple[str | None, ...]) -> None:
    assert from_parquet(tmp_path, cells) == expected
    assert from_arrow(tmp_path, cells) == expected


def test_types_that_arrow_alone_has(tmp_path: Path) -> None:
    assert from_arrow(tmp_path, pc.run_end_encode(NAMES)) == ("no", "yes", None, "no")
    number = UUID("d75a6d4d-6b6b-410f-826a-e4f70fdb9267")
    assert from_arrow(tmp_path, pa.array([number.bytes], pa.uuid())) == (str(number),)


def test_bytes_are_decoded_by_the_data_sections_encoding(tmp_path: Path) -> None:
    cells = pa.array(["naïve".encode("latin-1")], pa.binary())
    assert from_parquet(tmp_path, cells, encoding="latin-1") == ("naïve",)
    assert from_parquet(tmp_path, cells) == (None,)


def test_text_that_is_no_utf8_is_no_text_in_its_row_alone(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0")
    cells = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])
    assert from_parquet(tmp_path, cells) == ("a", None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pa.list_(pa.string()), "holds lists: join each into one text first"),
        (pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})), "holds lists of messages"),
        (pa.list_(pa.float32(), 3), "holds lists"),
        (pa.struct({"bytes": pa.binary()}), "holds objects"),
        (pa.map_(pa.string(), pa.string()), "holds objects"),
        (pa.duration("s"), r"holds values of the type duration\[s\]"),
    ],
    ids=str,
)
def test_types_that_are_no_text_are_refused_by_name(tmp_path: Path, kind: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"data\.c='c': the column {words}"):
        from_arrow(tmp_path, pa.array([None], kind))


def test_json_stays_what_is_written(tmp_path: Path) -> None:
    written = ["2024-01-01", "2024-01-01T00:00:00Z", "1e5", "01", "true", " yes ", "1.0", ""]
    assert from_json(tmp_path, *map(json.dumps, written)) == tuple(written)
    digits = "9" * 5000
    plain = from_json(tmp_path, "true", "false", "null", "1", "-1", digits, "1.0", "1e5", "1e400", "NaN")
    assert plain == ("true", "false", None, "1", "-1", digits, "1.0", "100000.0", None, None)


def test_what_differs_in_kind_from_row_to_row_is_text_row_by_row(tmp_path: Path) -> None:
    assert from_json(tmp_path, '"a"', "1", "[1]", '{"a": 1}', '"\\ud83d\\ude00"', '"\\ud83d"') == (
        *("a", "1", None, None, "😀", None),
    )


def test_a_column_of_lists_alone_is_refused_and_one_of_nothing_is_not() -> None:
    assert column_of([None, None], encoding="utf-8") == Column(values=(None, None))
    assert column_of([["a"], None], encoding="utf-8").refusal is not None
    assert column_of([["a"], "b"], encoding="utf-8").refusal is None


def test_numbers_of_class_labels_are_their_names(tmp_path: Path) -> None:
    features = {"c": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    content = pa.table({"c": [1, 0, -1, 2, None]}).replace_schema_metadata(metadata)
    parquet.write_table(content, tmp_path / "a.parquet")
    table = read_table(SourceKeys(source=str(tmp_path / "a.parquet")), columns=["c"])
    assert table.column("c", key="k") == ("yes", "no", None, None, None)
    assert table.faults == {3: "column 'c' holds a number beyond its 2 names"}


def test_workbooks_have_numbers_days_and_truths(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    cells = ["01", 1, 1.5, True, dt.datetime(2024, 1, 2), MOMENT.replace(microsecond=0), "=1/0", "#N/A", 0]
    for cell in ["c", *cells]:
        book.active.append([cell, "x"])
    book.save(tmp_path / "a.xlsx")
    expected = ("01", "1", "1.5", "true", "2024-01-02", "2024-01-02 12:30:00", None, None, "0")
    assert read(tmp_path / "a.xlsx") == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            pa.array([MOMENT.replace(microsecond=0)], pa.timestamp("us", "+01:00")),
            "2024-01-02 13:30:00+0100",
        ),
        (pa.array([MOMENT], pa.timestamp("ns", "+01:00")), "2024-01-02 13:30:00.5+0100"),
        (pa.array([MOMENT.replace(microsecond=0)], pa.timestamp("us", "UTC")), "2024-01-02 12:30:00Z"),
        (pa.array([MOMENT.replace(microsecond=50)], pa.timestamp("us")), "2024-01-02 12:30:00.00005"),
        (pa.array([2**62], pa.int64()).cast(pa.timestamp("us")), None),
    ],
)
def test_moments_have_no_digits_that_say_nothing(tmp_path: Path, column: Any, expected: str | None) -> None:
    parquet.write_table(pa.table({"c": column}), tmp_path / "data.parquet")
    assert read(tmp_path / "data.parquet") == (expected,)


def test_a_list_in_one_part_makes_its_row_blank_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"c": "one"}\n{"c": "two"}\n')
    (tmp_path / "b.jsonl").write_text('{"c": ["three"]}\n')
    assert read(tmp_path) == ("one", "two", None)
    (tmp_path / "a.jsonl").write_text('{"c": [1]}\n')
    with pytest.raises(DataError, match="the column holds lists"):
        read(tmp_path)


def test_a_part_whose_type_is_no_text_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"c": ["one"]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"c": [["two"]]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="the column holds lists"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf7", "UTF-7", "hz", "iso2022_kr", "unicode_escape", "idna"])
def test_no_row_decides_how_another_is_decoded(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "data.csv").write_bytes(b"c\nshift +AGEAYg\nplain\n")
    with pytest.raises(DataError, match="what one row holds decides how others are read"):
        read(tmp_path / "data.csv", encoding=encoding)


def test_a_category_is_one_text_however_many_rows_have_it(tmp_path: Path) -> None:
    """A small file may name a long category in each of its rows."""
    cells = pa.array(["x" * 99, "y", None, "x" * 99]).dictionary_encode()
    first, second, _, last = from_parquet(tmp_path, cells)
    assert first is last
    assert (first, second) == ("x" * 99, "y")


def test_a_time_zone_that_nobody_knows_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="times in the zone 'Nowhere/City', which is not known here"):
        from_parquet(tmp_path, pa.array([0], pa.timestamp("s", tz="Nowhere/City")))
