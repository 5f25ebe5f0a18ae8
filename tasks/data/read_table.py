"""Reading a source: from the files that it names to one table, every fault a sentence."""

from __future__ import annotations

import codecs
import io
import lzma
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.arrow_files import read_arrow, read_datasets_folder, read_parquet
from tasks.data.delimited import read_delimited
from tasks.data.file_kinds import check_file
from tasks.data.json_rows import read_json
from tasks.data.source_files import find_files
from tasks.data.table import Table, joined
from tasks.data.ts_files import read_ts
from tasks.data.workbook import read_workbook

_DAMAGED = "it is damaged, or was not written whole"
# Shifts, and line ends that are escaped, reach into the rows after them.
_WITH_STATE = ("iso2022", "hz", "utf-7", "unicode-escape", "raw-unicode-escape", "punycode", "idna")
_DATASETS = "datasets"
_FLAT: Mapping[str, Callable[[Path, SourceKeys, Sequence[str]], Table]] = {
    "delimited": read_delimited,
    "workbook": read_workbook,
    "series": read_ts,
}
_BINARY: Mapping[
    str, Callable[[Path, SourceKeys, Sequence[str], Collection[str], Collection[str]], Table]
] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
    _DATASETS: read_datasets_folder,
}


def read_table(
    keys: SourceKeys, *, columns: Iterable[str], nested: Collection[str] = (), raw: Collection[str] = ()
) -> Table:
    """The columns of a source that will be used, as text, and at least one row.

    Lists and objects in ``nested`` ones are written as JSON, and no text in others; ``raw`` ones are bytes,
    which only files whose columns have types hold. What other columns hold is not looked at. Raises
    DataError if there is no source, no row, or not the format that a file's name says: it names the file,
    the row and the key to change, and quotes no cell.
    """
    wanted = list(dict.fromkeys(columns))
    _check_encoding(keys.encoding)
    try:
        files = find_files(keys)
    except OSError as error:
        raise DataError(f"data.source={keys.source!r}: {_reason(error)}") from None
    table = joined([_read(file, keys, wanted, nested, raw) for file in files], files=files, columns=wanted)
    if not table.lacks(wanted) and not len(table):
        raise DataError(f"data.source={keys.source!r} has no rows")
    return table


def _read(
    path: Path, keys: SourceKeys, columns: Sequence[str], nested: Collection[str], raw: Collection[str]
) -> Table:
    import pyarrow as pa

    try:
        kind = _DATASETS if path.is_dir() else check_file(path, keys)
        if kind in _BINARY:
            return _BINARY[kind](path, keys, columns, nested, raw)
        if raw:
            raise DataError(
                f"{str(path)!r} holds no bytes in its cells: expected Parquet, Arrow or a datasets folder "
                "for a column of images"
            )
        return (
            read_json(path, keys, columns, nested) if kind == "json" else _FLAT[kind](path, keys, columns)
        )
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {_reason(error)}") from None
    except (pa.ArrowCapacityError, MemoryError):
        raise DataError(f"{str(path)!r} does not fit in this machine's memory: use a part of it") from None
    except (pa.ArrowException, UnicodeError, EOFError, zlib.error, lzma.LZMAError):
        # Their own words may quote what is in the file.
        raise DataError(f"{str(path)!r} cannot be read: {_DAMAGED}") from None


def _reason(error: OSError) -> str:
    """What the system says; of what others raise as OSError only that it is damage."""
    return (error.strerror or _DAMAGED) if error.errno else _DAMAGED


def _check_encoding(encoding: str) -> None:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding).read()
        b"".decode(encoding)
    except (LookupError, UnicodeError):
        raise DataError(
            f"data.encoding={encoding!r}: expected an encoding of text, such as utf-8"
        ) from None
    if codecs.lookup(encoding).name.startswith(_WITH_STATE):
        raise DataError(
            f"data.encoding={encoding!r}: in it what one row holds decides how others are read: write the "
            "file as utf-8 first"
        )
