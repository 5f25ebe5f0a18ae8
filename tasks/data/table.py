"""A data set's table: CSV, JSONL, Parquet or a datasets folder, and its columns."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.job.data_section import DataSection
from tasks.data.package_path import package_path


def open_table(data: DataSection, *, columns: Iterable[str]) -> Any:
    """The source as an Arrow table of one row at least; ``columns`` are those that will be read.

    In a CSV file they are bytes, which ``text_column`` decodes value by value. Raises DataError if there is
    no source, no row, or not the format that the file's name says.
    """
    source, names = data.source, list(columns)
    path = package_path(source) if source.startswith("package:") else Path(source)
    if not path.exists():
        raise DataError(f"data.source={source!r}: no such file or folder")
    arrow = _read(path, data, names)
    if not arrow.num_rows:
        raise DataError(f"data.source={source!r} has no rows")
    return arrow


def text_column(arrow: Any, name: str, *, key: str) -> tuple[str | None, ...]:
    """A column as text; None for a value that is missing or cannot be decoded.

    Raises DataError naming the job's ``key`` if there is no such column.
    """
    if name not in arrow.column_names:
        raise DataError(
            f"{key}={name!r}: the data has no such column; it has {', '.join(arrow.column_names)}"
        )
    return tuple(_text(value) for value in arrow.column(name).to_pylist())


def _read(path: Path, data: DataSection, columns: list[str]) -> Any:
    """The source as an Arrow table."""
    import pyarrow as pa

    try:
        if path.is_dir():
            return _read_datasets_folder(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return _read_csv(path, data, columns)
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


def _read_csv(path: Path, data: DataSection, columns: list[str]) -> Any:
    """A CSV file whose ``columns`` are bytes: each value is decoded by itself, in ``text_column``.

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
            column_types={name: pa.binary() for name in columns},
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


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
