"""Reading examples: CSV, JSONL, Parquet or a datasets folder, by column."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.job.job import DataSection, Job
from tasks.model.base_model import package_path


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns that a job needs, as text, row by row; ``labels`` and ``groups`` may be absent."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    groups: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Columns as they are: None stands for what is missing, empty or cannot be decoded."""

    texts: tuple[str | None, ...]
    labels: tuple[str | None, ...] | None

    def __len__(self) -> int:
        return len(self.texts)


def read_table(job: Job, *, group: str | None = None) -> Table:
    """Read the columns that the job names, and ``group`` beside them.

    Raises DataError if the source, a column or a value is missing, or if nothing is left.
    """
    data = job.data
    arrow = _open(data)
    texts = _whole(arrow, data.text, key="data.text")
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise DataError(
            f"data.text={data.text!r}: {len(empty)} texts are empty, the first in row "
            f"{empty[0] + 1}; remove them from the data"
        )
    labels = None if data.label is None else _whole(arrow, data.label, key="data.label")
    groups = None if group is None else _whole(arrow, group, key="federation.partition.column")
    return Table(texts=texts, labels=labels, groups=groups)


def read_raw_table(data: DataSection) -> RawTable:
    """Read a data set whatever its rows hold: one row's content decides about that row alone.

    Raises DataError if the source or a column is missing, or if the file is not of its format.
    """
    arrow = _open(data)
    texts = [text if text and text.strip() else None for text in _column(arrow, data.text, key="data.text")]
    labels = None if data.label is None else tuple(_column(arrow, data.label, key="data.label"))
    return RawTable(texts=tuple(texts), labels=labels)


def label_names(job: Job, table: Table) -> tuple[str, ...]:
    """The labels in the order of the head's outputs: as the job lists them, else sorted.

    Empty for a task without labels. Raises DataError if a label is not on the job's list, or if all
    examples have the same one.
    """
    if table.labels is None:
        return ()
    found = sorted(set(table.labels))
    if len(found) < 2:
        raise DataError(
            f"data.label={job.data.label!r}: every example has the label {found[0]!r}; "
            "a classifier needs at least two"
        )
    if job.data.labels is None:
        return tuple(found)
    unknown = sorted(set(found) - set(job.data.labels))
    if unknown:
        raise DataError(
            f"data.labels: expected one of {', '.join(job.data.labels)}, got {', '.join(unknown[:5])}; "
            "add it to data.labels or remove its examples"
        )
    return tuple(job.data.labels)


def _open(data: DataSection) -> Any:
    """The source as an Arrow table of one row at least."""
    source = data.source
    path = package_path(source) if source.startswith("package:") else Path(source)
    if not path.exists():
        raise DataError(f"data.source={source!r}: no such file or folder")
    arrow = _read(path, data)
    if not arrow.num_rows:
        raise DataError(f"data.source={source!r} has no rows")
    return arrow


def _read(path: Path, data: DataSection) -> Any:
    """The source as an Arrow table."""
    import pyarrow as pa

    try:
        if path.is_dir():
            return _read_datasets_folder(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return _read_csv(path, data)
        if suffix in {".jsonl", ".ndjson"}:
            from pyarrow import json as arrow_json

            return arrow_json.read_json(path)
        if suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_table(path)
    except (pa.ArrowException, OSError, UnicodeError, LookupError) as error:
        raise DataError(
            f"data.source={str(path)!r} cannot be read: {_reason(error)} (data.encoding={data.encoding!r})"
        ) from error
    raise DataError(f"data.source={str(path)!r}: expected .csv, .jsonl, .parquet or a datasets folder")


def _read_csv(path: Path, data: DataSection) -> Any:
    """A CSV file whose text and label are bytes: each is decoded by itself, in ``_column``.

    Everything is text: a label 1 stays "1" in every site's file.
    """
    import pyarrow as pa
    from pyarrow import csv

    source: Any = path
    if codecs.lookup(data.encoding).name != "utf-8":
        # Bytes that the encoding does not have become ones that UTF-8 does not have.
        text = path.read_bytes().decode(data.encoding, errors="surrogateescape")
        source = pa.py_buffer(text.encode("utf-8", errors="surrogatepass"))
    return csv.read_csv(
        source,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.binary() for name in (data.text, data.label) if name},
            check_utf8=False,
            strings_can_be_null=False,
        ),
    )


def _reason(error: Exception) -> str:
    """Why something cannot be read, without the row that Arrow would quote."""
    counted = re.match(r"CSV parse error: (Row #\d+: )?Expected \d+ columns, got \d+", str(error))
    if counted is not None:
        return counted[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    place = re.match(r"In CSV column #\d+", str(error))
    return f"{place[0]}: {type(error).__name__}" if place else type(error).__name__


def _read_datasets_folder(path: Path) -> Any:
    """A folder that ``datasets.Dataset.save_to_disk`` wrote: Arrow streams named in state.json."""
    import pyarrow as pa

    state = path / "state.json"
    if not state.exists():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").exists())
        hint = f"; name one of its splits: {', '.join(splits)}" if splits else ""
        raise DataError(f"data.source={str(path)!r} is not a datasets folder{hint}")
    parts = []
    for entry in json.loads(state.read_text())["_data_files"]:
        with pa.memory_map(str(path / entry["filename"])) as stream:
            parts.append(pa.ipc.open_stream(stream).read_all())
    return pa.concat_tables(parts)


def _whole(arrow: Any, name: str, *, key: str) -> tuple[str, ...]:
    """A column in which every row has a value. Raises DataError for the first that has none."""
    values = _column(arrow, name, key=key)
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise DataError(
            f"{key}={name!r}: row {missing[0] + 1} has no value, or none that can be decoded "
            f"({len(missing)} in all; data.encoding is for CSV files)"
        )
    return tuple(value for value in values if value is not None)


def _column(arrow: Any, name: str, *, key: str) -> list[str | None]:
    """A column as text; None for a value that is missing or cannot be decoded."""
    if name not in arrow.column_names:
        raise DataError(
            f"{key}={name!r}: the data has no such column; it has {', '.join(arrow.column_names)}"
        )
    return [_text(value) for value in arrow.column(name).to_pylist()]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
