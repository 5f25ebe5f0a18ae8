"""Files with a label each: in folders named after their labels, or at the paths in a table's column."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from protocol.job.job import ByColumn
from protocol.plain_text import Word, quoted
from tasks.data.named_files import FileKind, UnreadableFileError, is_hidden, paths_in_table
from tasks.data.package_path import locate
from tasks.data.rows import Rows, present
from tasks.labelled_keys import LabelledKeys
from tasks.network_task import NetworkTask

if TYPE_CHECKING:
    from protocol.job.job import Job

FOLDER = "folder"  # the label of a file is its folder's name, where no table says it


class LabelledFileKeys(LabelledKeys):
    """Where the files are: in folders named after their labels, or at the paths in a table's column.

    Paths are relative to the table's folder.
    """

    label: Word | None = FOLDER
    path: Word | None = Field(None, description="a table's column of paths; unset: a folder for each label")

    @property
    def in_table(self) -> bool:
        """Whether a table says which files there are."""
        return self.path is not None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if not self.in_table and self.label != FOLDER:
            raise ValueError("path: expected the column of paths beside the column of labels")
        return self


class LabelledFilesTask(NetworkTask):
    """A task on files with a label each, for a model of transformers' or a network of the task's own.

    What a file holds is known by its ``digest``, as hex, however it was packed.
    """

    pretrained = True
    kind: FileKind

    def read(self, data: SourceKeys, columns: LabelledFileKeys) -> Rows:
        """What each file holds, in order of the files' names or of the table's rows, and its label.

        One that cannot be read is None. Raises DataError if there is no folder, no file or no column.
        """
        if columns.path is None:
            paths, labels = _in_folders(data, self.kind)
        else:
            paths, labels = _in_table(data, columns.path, columns.label or FOLDER)
        contents: list[Any] = []
        faults: dict[int, str] = {}
        for row, path in enumerate(paths):
            try:
                contents.append(None if path is None else self.kind.find(path))
            except UnreadableFileError as error:
                contents.append(None)
                faults[row] = f"{quoted(path.name if path else '')} {error}"
        return Rows(contents=tuple(contents), labels=tuple(labels), faults=faults)

    def read_public(self, folder: Path) -> tuple[Any, ...]:
        """The files of a folder that can be read."""
        return self.kind.read_folder(folder)

    def refuses(self, job: Job, section: LabelledFileKeys) -> str | None:
        """Folders have no column that sites could be made by."""
        if not section.in_table and isinstance(job.federation.partition, ByColumn):
            return 'federation.partition: expected "iid" or a dirichlet without data.path'
        return super().refuses(job, section)

    def one_row_an_example(self, columns: LabelledFileKeys) -> bool:
        """A file is an example, and has a row where a table has it."""
        return columns.in_table

    def digest(self, content: Any) -> bytes:
        """SHA-256 of what a file holds, 32 bytes; of none, that of nothing."""
        return hashlib.sha256((content.digest if content else "").encode()).digest()

    def count_labels(self, model: Any) -> int:
        return super().count_labels(model) if hasattr(model, "made_of") else int(model.config.num_labels)


def _in_folders(data: SourceKeys, kind: FileKind) -> tuple[Sequence[Path | None], Sequence[str | None]]:
    """The files in the folders of a folder, by name, and each one's folder's name."""
    top = Path(locate(data.source)) / (data.split or "")
    if not top.is_dir():
        raise DataError(
            f"data.source={data.source!r}: expected a folder with a folder of {kind.called} for each "
            "label, or data.path and a table"
        )
    folders = sorted(entry for entry in top.iterdir() if entry.is_dir() and not is_hidden(entry))
    found = [
        (path, folder.name) for folder in folders for path in sorted(folder.iterdir()) if kind.has(path)
    ]
    if not found:
        raise DataError(f"data.source={data.source!r}: no folder in it has {kind.described}")
    return [path for path, _ in found], [label for _, label in found]


def _in_table(
    data: SourceKeys, path: str, label: str
) -> tuple[Sequence[Path | None], Sequence[str | None]]:
    """The paths and labels of a table's rows; None where a cell is empty."""
    from tasks.data.read_table import read_table

    table = read_table(data, columns=[path, label])
    labels = [present(cell) for cell in table.column(label, key="data.label")]
    return paths_in_table(data, table.column(path, key="data.path")), labels
