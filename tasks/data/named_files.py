"""Files that a table names, or that stand in a folder: where each is, and why one cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from protocol.job.data_section import SourceKeys
from tasks.data.package_path import locate
from tasks.data.rows import present


class UnreadableFileError(ValueError):
    """Says what is wrong with a file, after its name."""


def is_hidden(path: Path) -> bool:
    """Whether a name begins as those of files that programs write beside the data."""
    return path.name[0] in "._"


def paths_in_table(data: SourceKeys, cells: Iterable[str | None]) -> list[Path | None]:
    """The paths that a table's cells name, relative to its folder; None where a cell is empty."""
    place = Path(locate(data.source))
    beside = place if place.is_dir() else place.parent
    return [None if (cell := present(name)) is None else beside / cell for name in cells]
