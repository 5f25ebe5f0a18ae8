"""Files that are read: what writes each, and the keys to read it with."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import feather, parquet

TEXTS = ('a "good" day, fine', "bad; night\nand cold", "naïve\tand late", "secret")
LABELS = ("yes", "no", "01", "1")
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]

_Write = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class FileCase:
    """A file called ``name`` that ``write`` writes, and the keys of ``[data]`` to read it with.

    ``what`` describes it in the documentation. A refused one has what is ``said``, FILE being its path.
    """

    what: str
    name: str
    write: _Write
    keys: Mapping[str, str] = field(default_factory=dict)
    said: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def delimited(
    separator: str = ",", ends: str = "\r\n", rows: Sequence[Mapping[str, str]] = tuple(ROWS)
) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(
        file, ["text", "label"], delimiter=separator, lineterminator=ends, quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def lines(rows: Sequence[Mapping[str, Any]] = tuple(ROWS)) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Sequence[Mapping[str, Any]] = tuple(ROWS)) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows])


def text(content: str, encoding: str = "utf-8") -> _Write:
    return lambda path: path.write_bytes(content.encode(encoding))


def raw(content: bytes) -> _Write:
    return lambda path: path.write_bytes(content)


def zst(content: str) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content.encode(), asbytes=True)
    return packed


def as_parquet(content: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(content, sink)
    return sink.getvalue()


def as_arrow(content: pa.Table, *, new: Any = pa.ipc.new_stream) -> bytes:
    sink = io.BytesIO()
    with new(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=3)
    return sink.getvalue()


def folder(**parts: _Write) -> _Write:
    """A folder of files and folders, by their names; ``__`` stands for a point."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, write_part in parts.items():
            write_part(path / name.replace("__", "."))

    return write


def saved(**state: Any) -> _Write:
    """A folder as ``datasets.Dataset.save_to_disk`` leaves it, with this state.json beside the data."""

    def write(path: Path) -> None:
        path.mkdir()
        (path / "data.arrow").write_bytes(as_arrow(table([*ROWS, *ROWS])))
        (path / "indices.arrow").write_bytes(
            as_arrow(pa.table({"indices": pa.array([4, 1, 6, 3], pa.uint64())}))
        )
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], **state}))

    return write


def named_labels(path: Path) -> None:
    """As ``datasets`` writes a ClassLabel: numbers in the column, names in the schema."""
    features = {"label": {"names": ["yes", "no", "01", "1"], "_type": "ClassLabel"}}
    content = pa.table({"text": TEXTS, "label": pa.array(range(4), pa.int64())})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(content.replace_schema_metadata(metadata), path)


def workbook(*sheets: str, blank: Sequence[str] = ()) -> _Write:
    def write(path: Path) -> None:
        from openpyxl import Workbook

        book = Workbook()
        book.remove(book.active)
        for name in sheets:
            sheet = book.create_sheet(name)
            for row in [["text", "label"], *(list(row.values()) for row in ROWS)]:
                sheet.append(row)
        for name in blank:
            book.create_sheet(name)
        book.save(path)

    return write


_HALF = [ROWS[:2], ROWS[2:]]
SEPARATED = {"separator": ";"}

READ: tuple[FileCase, ...] = (
    FileCase(what="CSV after RFC 4180", name="a.csv", write=text(delimited())),
    FileCase(what="lines that end in LF", name="lf.csv", write=text(delimited(ends="\n"))),
    FileCase(what="lines that end in CR", name="cr.csv", write=text(delimited(ends="\r"))),
    FileCase(what="a byte order mark", name="bom.csv", write=text(delimited(), "utf-8-sig")),
    FileCase(what="a name in capitals", name="A.CSV", write=text(delimited())),
    FileCase(
        what="another encoding",
        name="latin.csv",
        write=text(delimited(), "latin-1"),
        keys={"encoding": "latin-1"},
    ),
    FileCase(
        what="UTF-16, as Excel writes Unicode text",
        name="wide.csv",
        write=text(delimited("\t"), "utf-16"),
        keys={"encoding": "utf-16", "separator": "\t"},
    ),
    FileCase(what="another separator", name="semi.csv", write=text(delimited(";")), keys=SEPARATED),
    FileCase(
        what="a separator that the first line tells, as Excel reads it",
        name="sep.csv",
        write=text("sep=;\r\n" + delimited(";")),
    ),
    FileCase(what="tabs between cells", name="a.tsv", write=text(delimited("\t"))),
    FileCase(what="packed by gzip", name="a.csv.gz", write=raw(gzip.compress(delimited().encode()))),
    FileCase(what="packed by zstd", name="a.tsv.zst", write=raw(zst(delimited("\t")))),
    FileCase(what="packed by bzip2", name="a.csv.bz2", write=raw(bz2.compress(delimited().encode()))),
    FileCase(what="packed by xz", name="a.csv.xz", write=raw(lzma.compress(delimited().encode()))),
    FileCase(what="JSON, an object a line", name="a.jsonl", write=text(lines())),
    FileCase(what="the same by another name", name="a.ndjson", write=text(lines())),
    FileCase(what="the same in a .json", name="lines.json", write=text(lines())),
    FileCase(what="one array of objects", name="array.json", write=text(json.dumps(ROWS, indent=1))),
    FileCase(what="an array in a .jsonl", name="array.jsonl", write=text(json.dumps(ROWS))),
    FileCase(what="JSON with a byte order mark", name="bom.jsonl", write=text(lines(), "utf-8-sig")),
    FileCase(what="JSON packed by gzip", name="a.jsonl.gz", write=raw(gzip.compress(lines().encode()))),
    FileCase(what="JSON packed by zstd", name="a.json.zst", write=raw(zst(json.dumps(ROWS)))),
    FileCase(what="Parquet", name="a.parquet", write=raw(as_parquet(table()))),
    FileCase(what="numbers with ClassLabel names, which count", name="named.parquet", write=named_labels),
    FileCase(what="an Arrow file", name="file.arrow", write=raw(as_arrow(table(), new=pa.ipc.new_file))),
    FileCase(what="an Arrow stream", name="stream.arrow", write=raw(as_arrow(table()))),
    FileCase(
        what="Feather", name="a.feather", write=lambda path: feather.write_feather(table(), str(path))
    ),
    FileCase(what="a workbook with one sheet", name="a.xlsx", write=workbook("Notes")),
    FileCase(
        what="one with sheets that nobody filled",
        name="blank.xlsx",
        write=workbook("Notes", blank=("2", "3")),
    ),
    FileCase(
        what="a sheet of several",
        name="two.xlsx",
        write=workbook("Old", "Notes"),
        keys={"split": "Notes"},
    ),
    FileCase(
        what="parts, read by their names",
        name="parts",
        write=folder(
            part_1__parquet=raw(as_parquet(table(_HALF[0]))),
            part_2__parquet=raw(as_parquet(table(_HALF[1]))),
            _SUCCESS=raw(b""),
            README__md=raw(b"about"),
        ),
    ),
    FileCase(
        what="parts of a CSV, each with its header",
        name="csv-parts",
        write=folder(b__csv=text(delimited(rows=_HALF[1])), a__csv=text(delimited(rows=_HALF[0]))),
    ),
    FileCase(
        what="one of several splits",
        name="splits",
        write=folder(train_1__jsonl=text(lines()), test__jsonl=text(lines(ROWS[:1]))),
        keys={"split": "train"},
    ),
    FileCase(
        what="one of several splits in a folder of a snapshot",
        name="snapshot",
        write=folder(
            README__md=raw(b"about"),
            data=folder(
                **{"train-00000-of-00001__parquet": raw(as_parquet(table()))},
                **{"test-00000-of-00001__parquet": raw(as_parquet(table(ROWS[:1])))},
            ),
        ),
        keys={"split": "train"},
    ),
    FileCase(
        what="`datasets`: save_to_disk",
        name="saved",
        write=saved(_data_files=[{"filename": "data.arrow", "skip": 4, "take": 4}]),
    ),
    FileCase(
        what="`datasets` 1.x: the rows that were selected",
        name="selected",
        write=saved(_indices_data_files=[{"filename": "indices.arrow"}]),
    ),
    FileCase(
        what="`datasets`: a split of a DatasetDict",
        name="dict",
        write=folder(
            dataset_dict__json=text('{"splits": ["train", "test"]}'),
            train=saved(_indices_data_files=[{"filename": "indices.arrow"}]),
            test=saved(),
        ),
        keys={"split": "train"},
    ),
)
