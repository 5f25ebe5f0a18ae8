"""A folder with a DICOM series as one volume: its slices in order of place, in the unit of the scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.plain_text import quoted
from tasks.data.dicom_file import NEEDED, PIXEL_TAGS, is_deflated, lacks_decoder, silent
from tasks.data.image_files import MOST_PIXELS
from tasks.data.named_files import UnreadableFileError, is_hidden

# All that is read of a file: pixels, and where they are.
TAGS = (*PIXEL_TAGS, "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
_MOST_BYTES = 8 * MOST_PIXELS  # of a series' files: eight a voxel
_INDEX = "DICOMDIR"  # what a disc lists its files in
_LEAST_GAP = 1e-3  # millimetres between two slices
_UNEVEN = 0.05  # of the usual gap: as far as gaps may be off, by rounding of positions
_RIGHT_ANGLE = 1e-2  # as far as a cosine may be off
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """``pixels``, float32[rows, columns], and where they are, in millimetres to left, back and top."""

    pixels: NDArray[np.float32]
    position: NDArray[np.float64]
    along: NDArray[np.float64]  # [2, 3]: to where columns count up, and rows
    spacing: NDArray[np.float64]  # [2]: between rows, and columns


def read_series(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The slices in a folder, float32[columns, rows, slices], and their affine, [4, 4], to RAS millimetres.

    Each is its numbers by slope and intercept. Source: DICOM PS3.3, C.7.6.2.1.1. Raises UnreadableFileError
    for what is no series of grey slices of one size that stand straight behind each other, none missing.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not _is_aside(path))
    if not paths:
        raise UnreadableFileError("is a folder without DICOM files")
    if len(paths) < 2:
        raise UnreadableFileError("has one DICOM file: expected a series of two slices or more")
    if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        raise UnreadableFileError(f"has more than {_MOST_BYTES >> 20} MiB of DICOM files")
    return _stacked([_read_slice(path) for path in paths])


def _is_aside(path: Path) -> bool:
    return is_hidden(path) or path.name == _INDEX


def _read_slice(path: Path) -> _Slice:
    """Raises UnreadableFileError. It says nothing of what a file holds but what is wrong with its form."""
    name = quoted(path.name)
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise UnreadableFileError(NEEDED) from None
    try:
        with silent():
            if is_deflated(path):
                raise UnreadableFileError(f"has a deflated DICOM file, {name}: write it again without that")
            found: Any = pydicom.dcmread(path, specific_tags=list(TAGS))
            _check_form(found, name)
            values = np.asarray(found.pixel_array, np.float32)
            slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
            known = [
                np.array(found[tag].value, np.float64)
                for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
            ]
    except UnreadableFileError:
        raise
    except InvalidDicomError:
        raise UnreadableFileError(f"has a file that is no DICOM: {name}") from None
    except Exception:  # pydicom and its decoders raise whatever they like on damaged files
        raise UnreadableFileError(f"has a file that is damaged, or was not written whole: {name}") from None
    if not all(np.isfinite([slope, intercept, *np.concatenate(known)])):
        raise UnreadableFileError(f"has a file with numbers that are not finite: {name}")
    return _Slice(
        pixels=values * np.float32(slope) + np.float32(intercept),
        position=known[0],
        along=known[1].reshape(2, 3),
        spacing=known[2],
    )


def _check_form(found: Any, name: str) -> None:
    """Raises UnreadableFileError for what is no grey slice with a place, or is packed in an unknown way."""
    if "PixelData" not in found:
        raise UnreadableFileError(f"has a file without pixels: {name}")
    if int(found.get("NumberOfFrames") or 1) != 1:
        raise UnreadableFileError(f"has a file of several frames, {name}: expected a slice in each")
    if found.get("SamplesPerPixel") != 1 or found.get("PhotometricInterpretation") != "MONOCHROME2":
        raise UnreadableFileError(f"has a file that is in colours or inverted, {name}: expected grey")
    if "ModalityLUTSequence" in found:
        raise UnreadableFileError(
            f"has a file whose numbers are places in a table, {name}: expected a slope"
        )
    lengths = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    for tag, length in lengths.items():
        if tag not in found or np.size(found[tag].value) != length:
            raise UnreadableFileError(f"has a file that does not say its {tag}: {name}")
    if found.Rows * found.Columns > MOST_PIXELS:
        raise UnreadableFileError(f"has more than {MOST_PIXELS:,} voxels")
    if (packing := lacks_decoder(found)) is not None:
        raise UnreadableFileError(
            f"has a file that is packed as {packing}, {name}: write it again without compression, or "
            "install a decoder of pydicom's"
        )


def _stacked(slices: Sequence[_Slice]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    first = slices[0]
    if len({one.pixels.shape for one in slices}) > 1:
        raise UnreadableFileError("has slices of several sizes: expected one series in a folder")
    if len(slices) * first.pixels.size > MOST_PIXELS:
        raise UnreadableFileError(f"has more than {MOST_PIXELS:,} voxels")
    if any(
        np.abs(one.along - first.along).max() > _RIGHT_ANGLE
        or np.abs(one.spacing - first.spacing).max() > _LEAST_GAP
        for one in slices
    ):
        raise UnreadableFileError("has slices of several directions or spacings: expected one series")
    if np.abs(first.along @ first.along.T - np.eye(2)).max() > _RIGHT_ANGLE or (first.spacing <= 0).any():
        raise UnreadableFileError("has slices whose directions or spacing are none")
    normal = np.cross(*first.along)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    places = np.array([one.position for one in ordered])
    step = (places[-1] - places[0]) / (len(ordered) - 1)
    gaps = np.diff(places @ normal)
    if gaps.min() < _LEAST_GAP:
        raise UnreadableFileError("has two slices in one place: expected one series in a folder")
    if np.abs(gaps - np.median(gaps)).max() > _UNEVEN * np.median(gaps):
        raise UnreadableFileError("has gaps between its slices that differ: one is missing")
    if step @ normal < (1 - _RIGHT_ANGLE) * np.linalg.norm(step):
        raise UnreadableFileError("has slices that are tilted: expected each straight behind the other")
    between_rows, between_columns = first.spacing
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [first.along[0] * between_columns, first.along[1] * between_rows, step], axis=1
    )
    affine[:3, 3] = places[0]
    return np.stack([one.pixels.T for one in ordered], axis=2), _LPS_TO_RAS @ affine
