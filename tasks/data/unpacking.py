"""How much of a file may be held: what comes out of packed ones, and of how many rows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from privacy.errors import DataError

# A small file may unpack to any size. What is read takes some times its size in memory: JSON up to five.
_SHARE_OF_MEMORY = 1 / 8
_ROWS_BETWEEN = 4096


def _open_zst(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


COMPRESSIONS: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".zst": _open_zst,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


class Unpacked(io.RawIOBase):
    """What is in a packed file. Reading raises DataError after ``most`` bytes."""

    def __init__(self, path: Path, *, suffix: str, most: int) -> None:
        self._path, self._most = path, most
        self._inner = COMPRESSIONS[suffix](path)
        self._read = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is something; returns how many bytes that were."""
        found = self._inner.read(len(buffer))
        self._read += len(found)
        check_unpacked(self._path, self._read, most=self._most)
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close the packed file too."""
        self._inner.close()
        super().close()


def most_unpacked() -> int:
    """How many bytes may be unpacked of a file here."""
    return int(_SHARE_OF_MEMORY * psutil.virtual_memory().total)


def check_unpacked(path: Path, size: int, *, most: int) -> None:
    """Raises DataError for a file that unpacks to more bytes than ``most``."""
    if size > most:
        raise DataError(
            f"{str(path)!r} unpacks to more than {most / 1e9:.1f} GB, an eighth of this machine's memory: "
            "leave out columns that are not used, or unpack it first"
        )


def check_room(path: Path, rows: int) -> None:
    """Raises DataError if there is little memory left after so many rows of a file; looks now and then."""
    if rows % _ROWS_BETWEEN or not rows:
        return
    memory = psutil.virtual_memory()
    if memory.available < _SHARE_OF_MEMORY * memory.total:
        raise DataError(
            f"{str(path)!r} has more rows than fit in this machine's memory ({rows} were read): use a part "
            "of it"
        )
