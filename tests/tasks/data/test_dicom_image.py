"""DICOM files as images: by their own window, each by itself, and nothing of who a patient is."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from tasks.data import image_files
from tasks.data.dicom_image import TAGS
from tasks.data.image_files import IMAGES, ImageShape, find_image, read_pixels
from tasks.data.named_files import UnreadableFileError
from tests.tasks.data.test_dicom_series import of_pydicom
from tests.tasks.scans import PATIENT, write_slice

# By slope 2 and intercept -1000 these are -1000, 0, 40, 80, 120 and 1000.
STORED = np.array([[0, 500, 520], [540, 560, 1000]], np.uint16)
WINDOW = {"WindowCenter": 40.5, "WindowWidth": 161}  # from -40 to 120
EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleSlope": 1, "RescaleIntercept": 0}


def write(path: Path, **changes: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):  # pydicom's, as it writes
        return write_slice(path, changes.pop("stored", STORED), [0.0, 0.0, 0.0], **changes)


def greys(path: Path) -> list[int]:
    found = read_pixels(path)
    assert found.dtype == np.uint8
    assert (found == found[:, :, :1]).all()
    return [int(one) for one in found[:, :, 0].ravel()]


def unreadable(folder: Path) -> list[tuple[str, Path]]:
    """What is said, and the file of which it is."""
    whole = write(folder / "whole.dcm", **WINDOW)
    cut, notes, other = (folder / name for name in ("cut.dcm", "notes.dcm", "other.dcm"))
    cut.write_bytes(whole.read_bytes()[:-3])
    notes.write_text(f"of {PATIENT}")
    other.write_bytes(bytes(128) + b"DICM" + b"\x07" * 50)
    no_window = "is DICOM that says no window: write its centre and width into it"
    not_linear = "is DICOM with a window that is not linear, or has no width"
    not_finite = "is DICOM with numbers that are not finite"
    no_pixels = "is DICOM without pixels"
    other_pixels = "is DICOM of other pixels than greys, or red, green and blue of 8 bits"
    damaged = "is damaged, or was not written whole"
    in_table = "is DICOM whose numbers are places in a table: expected a slope"
    packed = (
        "is DICOM packed as JPEG-LS Lossless Image Compression: write it again without compression, or "
        "install a decoder of pydicom's"
    )
    signed = EIGHT | {"PixelRepresentation": 1, "PixelData": bytes(6)}
    return [
        (no_window, write(folder / "a.dcm")),
        (no_window, write(folder / "b.dcm", WindowCenter=40)),
        (no_window, write(folder / "c.dcm", **signed)),
        (not_linear, write(folder / "d.dcm", **WINDOW, VOILUTFunction="SIGMOID")),
        (not_linear, write(folder / "e.dcm", WindowCenter=40, WindowWidth=0)),
        (not_linear, write(folder / "f.dcm", WindowCenter=40, WindowWidth="inf")),
        (not_finite, write(folder / "g.dcm", **WINDOW, RescaleSlope="nan")),
        (not_finite, write(folder / "h.dcm", WindowCenter="inf", WindowWidth=20)),
        (no_pixels, write(folder / "i.dcm", PixelData=None)),
        (no_pixels, of_pydicom("rtplan.dcm")),
        (no_pixels, other),
        (in_table, write(folder / "j.dcm", **WINDOW, ModalityLUTSequence=[Dataset()])),
        (other_pixels, of_pydicom("examples_palette.dcm")),
        (other_pixels, of_pydicom("SC_rgb_rle_16bit.dcm")),
        ("is deflated DICOM: write it again without that", of_pydicom("image_dfl.dcm")),
        (packed, of_pydicom("MR_small_jpeg_ls_lossless.dcm")),
        (damaged, cut),
        (damaged, of_pydicom("MR_truncated.dcm")),
        (damaged, write(folder / "k.dcm", **WINDOW, Columns=4)),
        ("is no JPEG, PNG, TIFF or DICOM", notes),
    ]


def test_what_cannot_be_read_says_why_and_nothing_of_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, found = unreadable(tmp_path), []
    caplog.clear()  # of what pydicom says as it writes
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _, path in files:
            with pytest.raises(UnreadableFileError) as told:
                find_image(path)
            assert told.value.__suppress_context__ or told.value.__context__ is None
            found.append((str(told.value), path))
    assert found == files
    assert "pydicom" not in caplog.text
    assert warned == []


def test_one_that_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", stored=np.zeros((40, 50), np.uint16), **WINDOW)
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("it was unpacked"))
    monkeypatch.setattr(image_files, "MOST_PIXELS", 1999)
    with pytest.raises(UnreadableFileError, match="has more than 1,999 pixels"):
        read_pixels(path)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 100)
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UnreadableFileError, match="has more than 0 MiB"):
        read_pixels(path)


def test_without_pydicom_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", **WINDOW)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableFileError, match=r"needs pydicom: pip install 'confide\[imaging\]'"):
        read_pixels(path)


def test_no_tag_is_read_that_says_who_a_patient_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, held = write(tmp_path / "a.dcm", **WINDOW, VOILUTFunction="LINEAR"), []
    read = pydicom.dcmread

    def watched(*given: Any, **how: Any) -> Any:
        held.append(read(*given, **how))
        return held[-1]

    monkeypatch.setattr(pydicom, "dcmread", watched)
    read_pixels(path)
    (one,) = held
    absent = {"NumberOfFrames", "PlanarConfiguration", "ModalityLUTSequence"}
    assert {element.keyword for element in one} == set(TAGS) - absent
    assert not any(name in str(one) for name in ("Smith", "4711", "20260131"))


def test_greys_are_seen_by_the_files_own_window(tmp_path: Path) -> None:
    expected = [0, 64, 128, 191, 255, 255]
    assert greys(write(tmp_path / "a.dcm", **WINDOW)) == expected
    several = {"WindowCenter": [40.5, 9], "WindowWidth": [161, 9]}
    assert greys(write(tmp_path / "b.dcm", **several)) == expected
    exact = {"WindowCenter": 40, "WindowWidth": 160, "VOILUTFunction": "LINEAR_EXACT"}
    assert greys(write(tmp_path / "c.dcm", **exact)) == expected
    inverted = write(tmp_path / "d.dcm", **WINDOW, PhotometricInterpretation="MONOCHROME1")
    assert greys(inverted) == [255 - one for one in expected]
    step = {"WindowCenter": 40.5, "WindowWidth": 1}
    assert greys(write(tmp_path / "e.dcm", **step)) == [0, 0, 0, 255, 255, 255]
    assert len(set(greys(write(tmp_path / "f.dcm", **WINDOW, RescaleSlope="1e300")))) <= 2


def test_without_a_window_eight_bits_are_as_they_are(tmp_path: Path) -> None:
    values = [0, 1, 127, 128, 254, 255]
    path = write(tmp_path / "a.dcm", **EIGHT, PixelData=bytes(values))
    assert greys(path) == values
    Image.fromarray(np.array(values, np.uint8).reshape(2, 3)).save(tmp_path / "a.png")
    assert find_image(path) == find_image(tmp_path / "a.png")  # the same pixels are the same example


def test_real_files_are_read_however_they_are_packed(tmp_path: Path) -> None:
    plain = find_image(of_pydicom("MR_small.dcm"))
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"):
        assert find_image(of_pydicom(name)) == plain
    # Colours of one picture: as they are, as JPEG's, and the first of two frames.
    colours = read_pixels(of_pydicom("SC_rgb_rle.dcm"))
    assert colours.shape == (100, 100, 3)
    assert colours[5, 50].tolist() == [255, 0, 0]
    assert np.array_equal(read_pixels(of_pydicom("SC_rgb_rle_2frame.dcm")), colours)
    for name in ("SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm"):
        assert np.abs(read_pixels(of_pydicom(name)).astype(int) - colours).mean() < 5
    # Its name says nothing.
    shutil.copy(of_pydicom("MR_small.dcm"), tmp_path / "scan.png")
    assert find_image(tmp_path / "scan.png") == plain


def test_in_folders_they_are_examples_beside_other_images(tmp_path: Path) -> None:
    (tmp_path / "ill").mkdir()
    (tmp_path / "well").mkdir()
    write(tmp_path / "ill" / "a.dcm", **WINDOW)
    write(tmp_path / "ill" / "b.dcm")
    Image.new("L", (20, 20), 9).save(tmp_path / "well" / "c.png")
    keys: dict[str, Any] = {"labels": ["ill", "well"]}
    source = DataSource(task="image-classification", source=str(tmp_path), **keys)
    data = read_data_set("scans", source)
    assert data.rows.labels == ("ill", "ill", "well")
    assert data.blank == {"'b.dcm' is DICOM that says no window: write its centre and width into it": (1,)}
    values = ImageShape(size=16, colours=False).encode(data.rows.contents)
    assert values.max(axis=(1, 2, 3)).tolist() == [255, 0, 9]
    assert len(IMAGES.read_folder(tmp_path)) == 2
