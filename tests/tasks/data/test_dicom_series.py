"""DICOM series: slices in order, in the scanner's unit, and nothing of who a patient is."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from tasks.data import dicom_series
from tasks.data.dicom_series import TAGS, read_series
from tasks.data.named_files import UnreadableFileError
from tasks.data.volume_files import read_volume
from tests.tasks.scans import PATIENT, write_series, write_slice

VOXELS = np.random.default_rng(0).integers(0, 3000, (4, 5, 6)).astype(np.uint16)
ONE = VOXELS[:, :, 0].T


def of_pydicom(name: str) -> Path:
    """A file that stands in pydicom's own package."""
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), f"this pydicom has no {name}: expected pydicom>=3,<4"
    return Path(found)


def beside(folder: Path, name: str) -> Path:
    """A series of one real file, and of itself somewhat higher."""
    folder.mkdir(exist_ok=True)
    shutil.copy(of_pydicom(name), folder / "a.dcm")
    other = pydicom.dcmread(folder / "a.dcm")
    position = other.get("ImagePositionPatient")
    if position is not None:
        other.ImagePositionPatient = [*position[:2], position[2] + 1]
    other.save_as(folder / "b.dcm")
    return folder


def test_slices_are_sorted_by_place_and_scaled(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOXELS)
    values, affine = read_series(tmp_path / "series")
    assert values.dtype == np.float32
    assert np.array_equal(values, 2.0 * VOXELS - 1000)
    # Columns are 0.5 mm apart, rows 2, slices 3. DICOM counts up to left and back, RAS to right and front.
    expected = [[-0.5, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 5], [0, 0, 0, 1]]
    assert np.allclose(affine, expected)
    turned = read_volume(tmp_path / "series", "")
    assert np.array_equal(turned.values, (2.0 * VOXELS - 1000)[::-1, ::-1])
    assert np.allclose(turned.spacing, [0.5, 2, 3])


def test_a_series_is_the_volume_that_nifti_says_it_is(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOXELS)
    values, affine = read_series(tmp_path / "series")
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii")
    one, other = read_volume(tmp_path / "series", ""), read_volume(tmp_path / "a.nii", "")
    assert np.array_equal(one.values, other.values)
    assert np.allclose(one.affine, other.affine)


def test_a_real_series_of_a_scanner_is_read() -> None:
    folder = of_pydicom("CT_small.dcm").parent / "dicomdirtests" / "98892001" / "CT5N"
    volume = read_volume(folder, "")
    assert volume.values.shape == (16, 16, 5)
    assert volume.spacing[2] == pytest.approx(2.5)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"]
)
def test_however_a_file_is_packed_its_voxels_are_the_same(name: str, tmp_path: Path) -> None:
    plain = of_pydicom("MR_small.dcm")
    other = tmp_path / "b.dcm"
    shutil.copy(of_pydicom(name), other)
    assert np.array_equal(
        dicom_series._read_slice(plain).pixels,
        dicom_series._read_slice(other).pixels,
    )


def refused(folder: Path) -> dict[str, Callable[[Path], Any]]:
    def with_one(**changes: Any) -> Callable[[Path], Any]:
        def write(at: Path) -> None:
            write_series(at, VOXELS)
            write_slice(at / "0.dcm", changes.pop("pixels", ONE), [-10.0, -20.0, 5.0], **changes)

        return write

    def cut(at: Path) -> None:
        write_series(at, VOXELS)
        (at / "0.dcm").write_bytes((at / "0.dcm").read_bytes()[:-11])

    def without(at: Path) -> None:
        write_series(at, VOXELS)
        (at / "7.dcm").unlink()

    def with_notes(at: Path) -> None:
        write_series(at, VOXELS)
        (at / "notes.txt").write_text(f"for {PATIENT}")

    return {
        "has a file that is damaged, or was not written whole: '0.dcm'": cut,
        "has gaps between its slices that differ: one is missing": without,
        "has a file that is no DICOM: 'notes.txt'": with_notes,
        "is a folder without DICOM files": lambda at: at.mkdir(),
        "has one DICOM file: expected a series of two slices or more": (
            lambda at: write_slice(at / "a.dcm", ONE, [0.0, 0.0, 0.0])
        ),
        "has a file without pixels: '0.dcm'": with_one(PixelData=None),
        "has a file of several frames, '0.dcm': expected a slice in each": with_one(NumberOfFrames=3),
        "has a file that is in colours or inverted, '0.dcm': expected grey": with_one(
            PhotometricInterpretation="MONOCHROME1"
        ),
        "has a file that does not say its ImagePositionPatient: '0.dcm'": with_one(
            ImagePositionPatient=None
        ),
        "has a file whose numbers are places in a table, '0.dcm': expected a slope": with_one(
            ModalityLUTSequence=[Dataset()]
        ),
        "has a file that does not say its PixelSpacing: '0.dcm'": with_one(PixelSpacing=None),
        "has slices of several sizes: expected one series in a folder": with_one(pixels=ONE[:3]),
        "has slices of several directions or spacings: expected one series": with_one(
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1]
        ),
        "has two slices in one place: expected one series in a folder": with_one(
            ImagePositionPatient=[-10.0, -20.0, 8.0]
        ),
        "has slices whose directions or spacing are none": (
            lambda at: write_series(at, VOXELS, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
        ),
        "has slices that are tilted: expected each straight behind the other": (
            lambda at: write_series(at, VOXELS, ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
        ),
        "has a deflated DICOM file, 'a.dcm': write it again without that": (
            lambda at: beside(at, "image_dfl.dcm")
        ),
        "has a file that is packed as JPEG-LS Lossless Image Compression, 'a.dcm': write it again without "
        "compression, or install a decoder of pydicom's": lambda at: beside(
            at, "MR_small_jpeg_ls_lossless.dcm"
        ),
        "has a file that is damaged, or was not written whole: 'a.dcm'": lambda at: beside(
            at, "MR_truncated.dcm"
        ),
        "has a file without pixels: 'a.dcm'": lambda at: beside(at, "rtplan.dcm"),
    }


def test_what_is_no_whole_series_is_refused_and_says_why_and_nothing_of_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    found = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number, (why, write) in enumerate(refused(tmp_path).items()):
            with warnings.catch_warnings(action="ignore"):  # pydicom's, as it writes
                write(tmp_path / str(number))
            with pytest.raises(UnreadableFileError) as told:
                read_series(tmp_path / str(number))
            assert told.value.__suppress_context__ or told.value.__context__ is None
            found[why] = str(told.value)
    assert found == {why: why for why in found}
    assert "Smith" not in caplog.text
    assert not [one for one in warned if "pydicom" in str(one.filename)]


def test_no_tag_is_read_that_says_who_a_patient_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = write_series(tmp_path / "series", VOXELS), []
    read = pydicom.dcmread

    def watched(*given: Any, **how: Any) -> Any:
        held.append(read(*given, **how))
        return held[-1]

    monkeypatch.setattr(pydicom, "dcmread", watched)
    read_volume(folder, "")
    assert len(held) == 6
    assert {element.keyword for one in held for element in one} == set(TAGS) - {
        "NumberOfFrames",
        "PlanarConfiguration",
        "ModalityLUTSequence",
    }
    assert not any(name in str(one) for one in held for name in ("Smith", "4711", "20260131"))
    assert {tag for tag in TAGS if tag.startswith(("Patient", "Study", "Institution"))} == set()


def test_a_series_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "series", VOXELS)
    monkeypatch.setattr(dicom_series, "MOST_PIXELS", 19)
    with pytest.raises(UnreadableFileError, match="has more than 19 voxels"):
        read_series(tmp_path / "series")
    monkeypatch.setattr(dicom_series, "_MOST_BYTES", 1 << 10)
    monkeypatch.setattr(dicom_series, "_read_slice", lambda _path: pytest.fail("it was read"))
    with pytest.raises(UnreadableFileError, match="has more than 0 MiB of DICOM files"):
        read_series(tmp_path / "series")


def test_hidden_files_and_a_discs_index_are_left_alone(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS)
    for name in (".DS_Store", "DICOMDIR"):
        (folder / name).write_text("something else")
    assert read_series(folder)[0].shape == VOXELS.shape


def test_without_pydicom_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "series", VOXELS)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UnreadableFileError, match=r"needs pydicom: pip install 'confide\[imaging\]'"):
        read_volume(folder, "")
