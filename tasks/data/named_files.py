"""Files that a table names, or that stand in a folder: where each is, and why one cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.plain_text import first_line
from tasks.data.package_path import locate
from tasks.data.rows import present


class UnreadableFileError(ValueError):
    """Says what is wrong with a file, after its name."""


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """Files of one kind, such as those ``called`` images: how their names end, and what is made of one.

    ``find`` raises UnreadableFileError.
    """

    called: str
    suffixes: tuple[str, ...]
    find: Callable[[Path], Any]

    @property
    def described(self) -> str:
        """Such as "images that end in .jpg, .png"."""
        return f"{self.called} that end in {', '.join(self.suffixes)}"

    def has(self, path: Path) -> bool:
        """Whether a file is of this kind, by its name."""
        return path.suffix.lower() in self.suffixes and not is_hidden(path)

    def read_folder(self, folder: Path) -> tuple[Any, ...]:
        """What is made of each file in a folder, and in those in it, that can be read, by their paths.

        Hidden folders are left out, as hidden files are.

        Raises DataError if there is no such folder, or none that can be looked into.
        """
        try:
            paths = sorted(folder.rglob("*")) if folder.is_dir() else None
        except OSError as error:
            raise DataError(f"{folder}: {first_line(error)}") from error
        if paths is None:
            raise DataError(f"{folder}: expected a folder of {self.described}")
        found = []
        for path in filter(self.has, paths):
            if any(is_hidden(Path(part)) for part in path.relative_to(folder).parent.parts):
                continue
            with suppress(UnreadableFileError):
                found.append(self.find(path))
        return tuple(found)


def is_hidden(path: Path) -> bool:
    """Whether a name begins as those of files that programs write beside the data."""
    return path.name[0] in "._"


def paths_in_table(data: SourceKeys, cells: Iterable[str | None]) -> list[Path | None]:
    """The paths that a table's cells name, relative to its folder; None where a cell is empty."""
    place = Path(locate(data.source))
    beside = place if place.is_dir() else place.parent
    return [None if (cell := present(name)) is None else beside / cell for name in cells]
