"""Kinds of files: what a name says that a file is, and whether its first bytes agree."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.cells import UNDECODABLE
from tasks.data.unpacking import COMPRESSIONS, Unpacked, most_unpacked

Kind = Literal["delimited", "json", "series", "parquet", "arrow", "workbook"]
WORKBOOKS: Kind = "workbook"

SUFFIXES: Mapping[str, Kind] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".ts": "series",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "workbook",
}
_TEXTS = {"delimited", "json", "series"}

_HEAD, _BUFFER = 4096, 1 << 16  # bytes
_LFS = b"version https://git-lfs.github.com/spec"
# First bytes, what a file that begins with them is, and what to do with it.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (_LFS, "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (b"PAR1\x15", "a Parquet file", "name it .parquet"),
    (b"ARROW1\0\0", "an Arrow file", "name it .arrow"),
    (b"FEA1\0", "a Feather file of the first version", "write it again as .arrow or .parquet"),
    (b"\x1f\x8b", "compressed by gzip", "add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "add .zst to its name"),
    (b"BZh91AY&SY", "compressed by bzip2", "add .bz2 to its name"),
    (b"\xfd7zXZ", "compressed by xz", "add .xz to its name"),
    (b"PK\x03\x04", "a zip archive or a workbook", "unpack it, or name a workbook .xlsx"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file, or a protected one", "save it as .xlsx or .csv"),
    (b"SQLite format 3", "an SQLite database", "write its table as .csv or .parquet"),
    (b"%PDF-", "a PDF", "write its table as .csv"),
    (b"\x93NUMPY", "a NumPy array", "write it as .parquet"),
)
# Those of them that a kind of file may begin with. An Arrow stream begins as it likes.
_OWN: Mapping[Kind, tuple[bytes, ...]] = {
    "parquet": (b"PAR1\x15",),
    "workbook": (b"PK\x03\x04",),
    "arrow": (b"ARROW1\0\0",),
}
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)


def kind_of(path: Path) -> Kind | None:
    """What a file's name says that it is; None if it says nothing that can be read."""
    kind = SUFFIXES.get(_suffixes(path)[0])
    return kind if not _suffixes(path)[1] or kind in _TEXTS else None


def suffix_of(path: Path) -> str:
    """``.csv`` for ``Notes.CSV.gz``: the suffix that names the format."""
    return _suffixes(path)[0]


def check_file(path: Path, keys: SourceKeys) -> Kind:
    """What a file is. Raises DataError for one that is empty, or begins otherwise than its name says."""
    kind = kind_of(path)
    if kind is None:
        known = ", ".join(SUFFIXES)
        packed = f"; text also packed, as in .csv{', .csv'.join(COMPRESSIONS)}"
        raise DataError(f"{str(path)!r}: expected a name that ends in one of {known}{packed}")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise DataError(f"{str(path)!r} is empty")
    packed_by = COMPRESSIONS.get(_suffixes(path)[1])
    if packed_by is not None and not head.startswith(_LFS):
        with packed_by(path) as unpacked:
            head = unpacked.read(_HEAD)
        if not head:
            raise DataError(f"{str(path)!r} is empty")
    _check_head(path, head, kind)
    if kind in _TEXTS:
        _check_encoding(path, head, keys.encoding)
    elif keys.separator is not None:
        raise DataError(f"data.separator: expected none: {str(path)!r} is no CSV file")
    return kind


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in a large one's place."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def open_text(path: Path, keys: SourceKeys) -> IO[str]:
    """A file's text, its line ends as they are; ``UNDECODABLE`` stands for bytes that mean nothing."""
    codecs.register_error("undecodable", _undecodable)
    packed = _suffixes(path)[1]
    opened: Any = (
        io.BufferedReader(Unpacked(path, suffix=packed, most=most_unpacked()), _BUFFER)
        if packed
        else path.open("rb")
    )
    name = codecs.lookup(keys.encoding).name
    encoding = "utf-8-sig" if name == "utf-8" else keys.encoding
    return io.TextIOWrapper(opened, encoding=encoding, errors="undecodable", newline="")


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """One mark for the bytes that a decoder stumbles over, after which it goes on."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODABLE, error.end


def _suffixes(path: Path) -> tuple[str, str]:
    """The suffixes for the format and for how it is packed, the second "" mostly."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return (suffixes[0] if len(suffixes) > 1 else "", suffixes[-1])
    return (suffixes[-1] if suffixes else "", "")


def _check_head(path: Path, head: bytes, kind: Kind) -> None:
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic) and magic not in _OWN.get(kind, ()):
            raise DataError(f"{str(path)!r} is {what}: {remedy}")
    if _WEB_PAGE.match(head):
        raise DataError(f"{str(path)!r} is a web page: download the file itself")
    if not head.strip(b"\0"):
        raise DataError(f"{str(path)!r} begins with zero bytes alone: it was not written whole")
    if kind in ("parquet", "workbook") and not head.startswith(_OWN[kind]):
        raise DataError(f"{str(path)!r} is no {kind.capitalize()}, whatever its name says")


def _check_encoding(path: Path, head: bytes, encoding: str) -> None:
    """Raises DataError for a file whose first bytes tell another encoding than ``data.encoding``."""
    told = codecs.lookup(encoding).name
    found = None
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        found = "utf-32"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = "utf-16"
    elif head.startswith(codecs.BOM_UTF8):
        found = "utf-8"
    elif len(head) > 3 and not any(head[1:64:2]):
        found = "utf-16-le"
    elif len(head) > 3 and not any(head[0:64:2]):
        found = "utf-16-be"
    # What is told may say more than what is found, such as the order of bytes.
    if found is not None and not told.startswith(found[:6]):
        raise DataError(f"{str(path)!r} is {found.upper()}: set data.encoding={found!r}")
