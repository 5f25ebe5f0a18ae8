"""Parquet, Arrow and what ``datasets`` saves: files whose columns have types."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cell_bytes import bytes_column, bytes_refusal
from tasks.data.cells import Column, arrow_column, arrow_refusal
from tasks.data.source_files import DATASETS_STATE
from tasks.data.table import Table

_ClassNames = Mapping[str, Sequence[str]]
_METADATA = b"huggingface"  # the key under which datasets keeps features in an Arrow schema


def read_parquet(
    path: Path,
    keys: SourceKeys,
    columns: Sequence[str],
    nested: Collection[str] = (),
    raw: Collection[str] = (),
) -> Table:
    """A Parquet file. Integer columns that ``datasets`` knows as ClassLabel are their names."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = _class_names(schema)
        return _table(
            schema, columns, keys, nested, raw, names=names, read=lambda used: file.read(columns=used)
        )


def read_arrow(
    path: Path,
    keys: SourceKeys,
    columns: Sequence[str],
    nested: Collection[str] = (),
    raw: Collection[str] = (),
) -> Table:
    """An Arrow file or stream, Feather among them."""
    schema = _schema(path)
    names = _class_names(schema)
    return _table(
        schema, columns, keys, nested, raw, names=names, read=lambda used: _read_columns(path, used)
    )


def read_datasets_folder(
    folder: Path,
    keys: SourceKeys,
    columns: Sequence[str],
    nested: Collection[str] = (),
    raw: Collection[str] = (),
) -> Table:
    """A folder that ``datasets.Dataset.save_to_disk`` wrote: Arrow files named in state.json.

    The 1.x form may name a part of a file (skip, take), and files of the numbers of the rows that were
    selected. Raises DataError if it was not written whole.
    """
    state = read_json_file(folder / DATASETS_STATE)
    parts = _named_files(folder, state.get("_data_files"))
    chosen = state.get("_indices_data_files")
    schema = _schema(parts[0][0])

    def read(used: list[str]) -> Any:
        whole = _end_to_end(parts, used)
        return whole if not chosen else _selected(folder, whole, _named_files(folder, chosen))

    names = _class_names(schema) or _names_of(_features_beside(folder))
    return _table(schema, columns, keys, nested, raw, names=names, read=read)


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object that describes a datasets folder. Raises DataError if it was not written whole."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{str(path)!r} was not written whole, as a JSON object: save the folder again")
    return found


def _table(
    schema: Any,
    columns: Sequence[str],
    keys: SourceKeys,
    nested: Collection[str],
    raw: Collection[str],
    *,
    names: _ClassNames,
    read: Callable[[list[str]], Any],
) -> Table:
    """The columns as text, ``raw`` ones as bytes; ``read`` is asked for none whose type is neither."""
    table = Table(names=tuple(schema.names))
    if table.lacks(columns):
        return table
    kinds = {name: schema.field(name).type for name in columns}
    refused = {
        name: bytes_refusal(kind) if name in raw else arrow_refusal(kind, nested=name in nested)
        for name, kind in kinds.items()
    }
    arrow = read([name for name in dict.fromkeys(columns) if refused[name] is None])
    found = {
        name: Column(values=(None,) * arrow.num_rows, refusal=refusal)
        if (refusal := refused[name]) is not None
        else bytes_column(arrow.column(name))
        if name in raw
        else arrow_column(
            arrow.column(name), encoding=keys.encoding, names=names.get(name), nested=name in nested
        )
        for name in columns
    }
    return Table(names=table.names, columns=found)


def _open(path: Path, **options: Any) -> Any:
    """A reader of an Arrow file or stream. It is not mapped: damage in what is mapped ends the process."""
    import pyarrow as pa

    file = pa.OSFile(str(path))
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file, **options)


def _schema(path: Path) -> Any:
    return _open(path).schema


def _read_columns(path: Path, used: Sequence[str]) -> Any:
    """Some columns as an Arrow table, every offset in it checked."""
    import pyarrow as pa

    places = [_schema(path).get_field_index(name) for name in used]
    if -1 in places:
        raise DataError(f"{str(path)!r} lacks a column that other parts have, or has it twice")
    whole = _open(path, options=pa.ipc.IpcReadOptions(included_fields=sorted(places))).read_all()
    whole.validate(full=True)
    return whole


def _named_files(folder: Path, entries: Any) -> list[tuple[Path, int, int | None]]:
    """The Arrow files that state.json names: (path, rows to skip, rows to take or None for all)."""
    listed = isinstance(entries, list) and all(isinstance(e, dict) and "filename" in e for e in entries)
    if not listed or not entries:
        raise DataError(f"{str(folder / DATASETS_STATE)!r} names no data files: save the folder again")
    found = []
    for entry in entries:
        # The 1.x form names them by their whole path at the time.
        path = folder / Path(str(entry["filename"])).name
        if not path.is_file() or not path.stat().st_size:
            raise DataError(f"{str(folder)!r} lacks {path.name!r}, or it is empty: save the folder again")
        found.append((path, entry.get("skip") or 0, entry.get("take")))
    return found


def _end_to_end(parts: Sequence[tuple[Path, int, int | None]], used: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.concat_tables([_read_columns(path, used).slice(skip, take) for path, skip, take in parts])


def _selected(folder: Path, whole: Any, files: Sequence[tuple[Path, int, int | None]]) -> Any:
    """The rows whose numbers stand in ``files``, in that order."""
    import pyarrow.compute as pc

    chosen = _end_to_end(files, [_schema(files[0][0]).names[0]]).column(0)
    if len(chosen) and not 0 <= pc.min(chosen).as_py() <= pc.max(chosen).as_py() < whole.num_rows:
        raise DataError(f"{str(folder)!r}: its selection names rows that it lacks: save it again")
    return whole.take(chosen)


def _class_names(schema: Any) -> _ClassNames:
    """The names of ClassLabel columns, as ``datasets`` writes them into a schema."""
    try:
        told = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
        return _names_of(told["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def _features_beside(folder: Path) -> Any:
    path = folder / "dataset_info.json"
    return read_json_file(path).get("features") if path.is_file() else None


def _names_of(features: Any) -> _ClassNames:
    if not isinstance(features, dict):
        return {}
    return {
        name: [str(one) for one in kind["names"]]
        for name, kind in features.items()
        if isinstance(kind, dict)
        and kind.get("_type") == "ClassLabel"
        and isinstance(kind.get("names"), list)
    }
