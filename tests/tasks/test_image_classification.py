"""Images as people have them: each file is an example, or blank with a reason, and decides about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.job_file import parse_job
from tasks.data import image_files
from tasks.data.image_files import ImageShape, find_image, read_pixels
from tasks.data.named_files import UnreadableFileError
from tasks.registry import checked_job
from tests.tasks.networks import job_table

KEYS = {"labels": ["cat", "dog"]}
# A picture whose corners differ: which way it is turned shows.
PIXELS = np.zeros((6, 8, 3), np.uint8)
PIXELS[0, 0], PIXELS[0, 7], PIXELS[5, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def rotated(path: Path, way: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = way
    return save(path, Image.fromarray(PIXELS), exif=exif)


def read(folder: Path, **keys: Any) -> DataSet:
    source = {"source": str(folder)} | KEYS | keys
    return read_data_set("images", DataSource(task="image-classification", **source))


def test_a_cameras_turn_is_undone(tmp_path: Path) -> None:
    upright = read_pixels(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    assert np.array_equal(upright, PIXELS)
    # 6: a quarter turn clockwise is needed.
    assert np.array_equal(read_pixels(rotated(tmp_path / "b.png", 6)), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_of_sixteen_bits_the_upper_eight_count(name: str, tmp_path: Path) -> None:
    deep = np.arange(0, 65536, 2048, dtype=np.uint16).reshape(4, 8)
    found = read_pixels(save(tmp_path / name, Image.fromarray(deep)))
    assert np.array_equal(found, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_ink_palettes_and_glass_become_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    ink = read_pixels(save(tmp_path / "ink.jpg", red.convert("CMYK"), quality=100))
    assert np.abs(ink.astype(int) - (255, 0, 0)).max() < 8  # JPEG rounds
    assert np.array_equal(read_pixels(save(tmp_path / "p.png", red.convert("P"))), np.asarray(red))
    glass = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert not read_pixels(save(tmp_path / "glass.png", glass)).any()
    assert read_pixels(save(tmp_path / "bit.png", Image.new("1", (4, 4), 1))).min() == 255


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (200, 10)]
    for name in ("moving.png", "pages.tif"):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert set(read_pixels(path).flatten().tolist()) == {200}


def broken(folder: Path) -> dict[str, str]:
    """Files that cannot be read, by name, and what is said."""
    whole = save(folder / "cat" / "whole.jpg", Image.effect_noise((64, 64), 50)).read_bytes()
    moving = [Image.new("L", (4, 4), value) for value in (200, 10)]
    save(folder / "cat" / "gif.png", moving[0], format="GIF", save_all=True, append_images=moving[1:])
    save(folder / "cat" / "float.tif", Image.new("F", (4, 4), 0.5))
    (folder / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "cat" / "text.png").write_text("no image")
    return {
        "cut.jpg": "is damaged, or was not written whole",
        "empty.png": "is empty",
        "float.tif": "holds floating-point numbers, whose range it does not tell",
        "gif.png": "is no JPEG, PNG, TIFF or DICOM",
        "text.png": "is no JPEG, PNG, TIFF or DICOM",
    }


def test_what_cannot_be_read_is_blank_and_says_why(tmp_path: Path) -> None:
    said = broken(tmp_path)
    save(tmp_path / "dog" / "b.png", Image.fromarray(PIXELS))
    (tmp_path / "dog" / "notes.txt").write_text("left alone")
    data = read(tmp_path)
    names = sorted([*said, "whole.jpg"])
    assert len(data) == len(names) + 1
    assert data.blank == {f"'{name}' {why}": (names.index(name),) for name, why in said.items()}
    shape = ImageShape(size=16, colours=False)
    examples = data.task.encode(shape, data.rows, labels=data.labels).examples
    assert (examples.sizes > 0).tolist() == [name not in said for name in names] + [True]


def test_in_a_simulation_it_is_an_error_by_its_name(tmp_path: Path) -> None:
    from simulation.simulate import simulate

    broken(tmp_path)
    keys = KEYS | {"size": 16}
    with pytest.raises(DataError, match=r"data: row 1 has no value: 'cut\.jpg' is damaged.*\(5 in all\)"):
        simulate(parse_job(job_table("image-classification", tmp_path, keys)), runs=tmp_path / "runs")


def test_one_that_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(image_files, "MOST_PIXELS", 47)
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("it was unpacked"))
    with pytest.raises(UnreadableFileError, match="has more than 47 pixels"):
        read_pixels(path)


def test_the_same_pixels_in_another_file_are_the_same_example(tmp_path: Path) -> None:
    one = find_image(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    other = find_image(save(tmp_path / "b.tif", Image.fromarray(PIXELS)))
    turned = find_image(rotated(tmp_path / "c.png", 6))
    assert one == other
    assert len({one, other, turned}) == 2
    assert sorted([turned, one]) == sorted([one, turned])


def test_sizes_mix_and_proportions_are_kept(tmp_path: Path) -> None:
    wide = find_image(save(tmp_path / "wide.png", Image.new("L", (64, 16), 255)))
    high = find_image(save(tmp_path / "high.png", Image.new("L", (8, 32), 255)))
    found = ImageShape(size=16, colours=False).encode([wide, None, high])
    assert found.shape == (3, 1, 16, 16)
    across = [0] * 6 + [255] * 4 + [0] * 6
    assert (found[0, 0].mean(axis=1) == across).all()
    assert not found[1].any()
    assert (found[2, 0].mean(axis=0) == across).all()
    assert ImageShape(size=16, colours=True).encode([wide]).shape == (1, 3, 16, 16)


def test_a_table_says_paths_and_labels(tmp_path: Path) -> None:
    save(tmp_path / "files" / "a.png", Image.fromarray(PIXELS))
    table = tmp_path / "table.csv"
    table.write_text("file,kind\nfiles/a.png,dog\nfiles/gone.png,cat\n,cat\n")
    data = read(table, path="file", label="kind")
    assert data.rows.labels == ("dog", "cat", "cat")
    assert data.blank == {"'gone.png' is not there": (1,), "no content, or none that can be read": (2,)}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"label": "kind"}, "path: expected the column of paths beside the column of labels"),
        ({"size": 8}, "data.size: expected"),
        ({"labels": None}, "data.labels: expected the list of labels"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    chosen = {key: value for key, value in (KEYS | {"size": 16} | keys).items() if value is not None}
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("image-classification", tmp_path, chosen)))
    assert words in str(told.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no folder in it has images"):
        read(tmp_path)
    with pytest.raises(DataError, match="expected a folder with a folder of images for each label"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [(1, 200), (200, 1)])
def test_one_that_is_thinner_than_a_pixel_is_an_example(tmp_path: Path, size: tuple[int, int]) -> None:
    save(tmp_path / "cat" / "thin.png", Image.new("RGB", size, (255, 255, 255)))
    shape = ImageShape(size=64, colours=True)
    (found,) = shape.encode([find_image(tmp_path / "cat" / "thin.png")])
    assert found.shape == (3, 64, 64)
    assert found.max() == 255
