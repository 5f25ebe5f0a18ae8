"""A small file that unpacks to much, and more rows than memory holds: one sentence, and no memory taken."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path
from types import SimpleNamespace

import openpyxl
import psutil
import pyarrow as pa
import pytest

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.read_table import read_table

ROWS = b"text,label\n" + b"good day,yes\n" * 5000
MOST = len(ROWS)  # bytes that may be unpacked


def _workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in [("text", "label"), *[("good day", "yes")] * 5000]:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


PACKED = {
    "a.csv.gz": gzip.compress(ROWS),
    "a.csv.bz2": bz2.compress(ROWS),
    "a.csv.xz": lzma.compress(ROWS),
    "a.csv.zst": pa.Codec("zstd").compress(ROWS, asbytes=True),
    "line.csv.gz": gzip.compress(b"text,label\n" + b"x" * MOST),
    "array.json.gz": gzip.compress(b'[{"text": "' + b"x" * MOST),
    "a.xlsx": _workbook(),
}


def limit_memory(monkeypatch: pytest.MonkeyPatch, *, total: int, available: int) -> None:
    found = SimpleNamespace(total=total, available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


def read(path: Path) -> int:
    return len(read_table(SourceKeys(source=str(path)), columns=["text", "label"]))


@pytest.mark.parametrize("name", PACKED)
def test_what_unpacks_to_more_than_an_eighth_of_memory_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    limit_memory(monkeypatch, total=8 * (MOST - 1), available=8 * MOST)
    with pytest.raises(DataError, match=rf"{name}' unpacks to more than 0\.0 GB, an eighth of this"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zst"])
def test_what_is_no_larger_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    limit_memory(monkeypatch, total=8 * MOST, available=8 * MOST)
    assert read(tmp_path / name) == 5000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ROWS),
        ("a.csv.gz", PACKED["a.csv.gz"]),
        ("a.jsonl", b'{"text": "a", "label": ""}\n' * 5000),
    ],
)
def test_rows_beyond_what_memory_holds_are_refused(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    limit_memory(monkeypatch, total=8 * MOST, available=MOST - 1)
    with pytest.raises(DataError, match=rf"{name}' has more rows than fit .* \(4096 were read\)"):
        read(tmp_path / name)
    limit_memory(monkeypatch, total=8 * MOST, available=MOST)
    assert read(tmp_path / name) == 5000
