"""Images as bytes in a table's cells: the same examples as in files, or blank for the same reasons."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import feather, parquet

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.job_file import parse_job
from tasks.data.image_files import ImageShape
from tasks.image_classification import TASK, ImageColumns
from tasks.registry import checked_job
from tests.tasks.networks import job_table

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
KEYS: dict[str, Any] = {"image": "picture", "label": "kind", "labels": ["cat", "dog"]}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def packed(pixels: np.ndarray = PIXELS, form: str = "PNG") -> bytes:
    held = BytesIO()
    Image.fromarray(pixels).save(held, form)
    return held.getvalue()


def table_of(pictures: Any) -> pa.Table:
    kinds = [("cat", "dog")[row % 2] for row in range(len(pictures))]
    return pa.table({"picture": pictures, "kind": kinds, "other": list(range(len(pictures)))})


def write(path: Path, pictures: Any) -> Path:
    parquet.write_table(table_of(pictures), path)
    return path


def read(source: Path, **keys: Any) -> DataSet:
    chosen = {"source": str(source)} | KEYS | keys
    return read_data_set(
        "images", DataSource(task="image-classification", **{k: v for k, v in chosen.items() if v})
    )


def cells() -> list[bytes | None]:
    moving = [Image.new("L", (4, 4), value) for value in (200, 10)]
    held = BytesIO()
    moving[0].save(held, "GIF", save_all=True, append_images=moving[1:])
    return [packed(), None, packed()[:60], b"", held.getvalue(), b"no image", packed(255 - PIXELS)]


BLANK = {
    "no content, or none that can be read": (1,),
    "the image of row 3 is damaged, or was not written whole": (2,),
    "the image of row 4 is empty": (3,),
    "the image of row 5 is no JPEG, PNG or TIFF": (4,),
    "the image of row 6 is no JPEG, PNG or TIFF": (5,),
}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), STRUCT])
def test_what_cannot_be_read_is_blank_and_says_why(kind: pa.DataType, tmp_path: Path) -> None:
    held: Any = cells()
    if kind == STRUCT:
        held = [None if cell is None else {"bytes": cell, "path": "a.png"} for cell in held]
    path = tmp_path / "a.arrow"
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, (table := table_of(pa.array(held, kind))).schema) as writer,
    ):
        writer.write_table(table)
    data = read(path)
    assert len(data) == 7
    assert data.blank == BLANK
    values = ImageShape(size=16, colours=True).encode(data.rows.contents)
    assert values.any(axis=(1, 2, 3)).tolist() == [True, *[False] * 5, True]


def test_a_path_without_bytes_is_blank_and_is_not_looked_at(tmp_path: Path) -> None:
    rows = [
        {"bytes": None, "path": "a.png"},
        {"bytes": None, "path": None},
        {"bytes": packed(), "path": None},
    ]
    path = write(tmp_path / "a.parquet", pa.array(rows, STRUCT))
    assert read(path).blank == {
        "column 'picture' holds a path and no bytes": (0,),
        "no content, or none that can be read": (1,),
    }
    # One cell whose path is no UTF-8 says nothing of the others.
    odd = pa.StructArray.from_arrays(
        [pa.array([packed(), packed()]), pa.array([b"\xff", b"a"]).view(pa.string())], ["bytes", "path"]
    )
    assert read(write(tmp_path / "odd.parquet", odd)).blank == {}


@pytest.mark.parametrize(
    ("pictures", "keys", "words"),
    [
        (["a.png"], {}, "data.image='picture': the column holds no bytes: expected what is in an image's"),
        ([[b"a"]], {}, "data.image='picture': the column holds no bytes"),
        ([{"path": "a.png"}], {}, "data.image='picture': the column holds no bytes"),
        ([{"bytes": {"bytes": b"a"}}], {}, "data.image='picture': the column holds no bytes"),
        ([b"a"], {"image": "pictures"}, "data.image='pictures': the data has no such column; it has"),
        ([b"a"], {"label": "sort"}, "data.label='sort': the data has no such column"),
    ],
)
def test_other_columns_are_refused(
    pictures: list[Any], keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as told:
        read(write(tmp_path / "a.parquet", pictures), **keys)
    assert words in str(told.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_files_of_text_hold_no_images(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(
        '{"picture": "a", "kind": "cat"}\n' if "json" in name else "picture,kind\na,b\n"
    )
    with pytest.raises(
        DataError, match="holds no bytes in its cells: expected Parquet, Arrow or a datasets"
    ):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"path": "file"}, "image: expected none beside path"),
        ({"label": "picture"}, "image: expected another column than label"),
    ],
)
@pytest.mark.parametrize("task", ["image-classification", "image-anomaly"])
def test_wrong_keys_are_named(task: str, keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    chosen = KEYS | {"size": 16} | ({"features": 8} if task == "image-anomaly" else {}) | keys
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table(task, tmp_path, chosen)))
    assert words in str(told.value)


def test_they_are_the_examples_that_files_have(tmp_path: Path) -> None:
    in_cells = read(write(tmp_path / "a.parquet", [packed(), packed(form="TIFF")]))
    (tmp_path / "files" / "cat").mkdir(parents=True)
    (tmp_path / "files" / "cat" / "a.png").write_bytes(packed())
    in_files = read(tmp_path / "files", image=None, label=None)
    assert in_cells.rows.contents == in_files.rows.contents * 2
    assert in_cells.rows.labels == ("cat", "dog")
    shape = ImageShape(size=16, colours=True)
    assert (shape.encode(in_cells.rows.contents) == shape.encode(in_files.rows.contents)).all()
    assert TASK.one_row_an_example(ImageColumns(**KEYS))
    assert "PNG" not in repr(in_cells.rows.contents)


def test_parts_and_datasets_folders_are_read(tmp_path: Path) -> None:
    parts, saved = tmp_path / "parts", tmp_path / "saved"
    parts.mkdir()
    write(parts / "1.parquet", [packed()])
    write(parts / "2.parquet", [packed(255 - PIXELS), b""])
    assert read(parts).blank == {"the image of row 3 is empty": (2,)}
    saved.mkdir()
    feather.write_feather(
        table_of(pa.array([{"bytes": packed(), "path": None}], STRUCT)), saved / "data.arrow"
    )
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    assert read(saved).rows.contents == read(parts).rows.contents[:1]


def test_a_gate_and_a_simulation_take_them(tmp_path: Path) -> None:
    from simulation.simulate import simulate

    dark, bright = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    path = write(tmp_path / "a.parquet", [packed(dark), packed(bright)])
    gate = {"gate": {"darkest": 0.5}}
    assert read(path, **gate).blank == {"the gate: darker than 0.5": (0,)}
    table = job_table("image-classification", write(tmp_path / "b.parquet", cells()), KEYS | {"size": 16})
    with pytest.raises(DataError, match=r"data: row 2 has no value.*\(5 in all\)"):
        simulate(parse_job(table), runs=tmp_path / "runs")
