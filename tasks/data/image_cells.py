"""Images in a table's cells, as Parquet files and ``datasets`` hold them: what is in a file, as bytes."""

from __future__ import annotations

from protocol.job.data_section import SourceKeys
from tasks.data.image_files import ImageFile, find_image
from tasks.data.named_files import UnreadableFileError
from tasks.data.read_table import read_table
from tasks.data.rows import Rows, present


def read_image_cells(data: SourceKeys, *, image: str, label: str) -> Rows:
    """The image in each of a table's rows, None where none can be read, and its label.

    Images stay packed, as they are in the table. Raises DataError if there is no such column.
    """
    table = read_table(data, columns=[image, label], raw=[image])
    labels = [present(cell) for cell in table.column(label, key="data.label")]
    contents: list[ImageFile | None] = []
    faults = table.faults
    for row, cell in enumerate(table.raw_column(image, key="data.image")):
        try:
            contents.append(None if cell is None else find_image(cell))
        except UnreadableFileError as error:
            contents.append(None)
            faults[row] = f"the image of row {row + 1} {error}"
    return Rows(contents=tuple(contents), labels=tuple(labels), faults=faults)
