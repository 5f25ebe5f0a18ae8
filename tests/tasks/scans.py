"""Small volumes with masks, as NIfTI files and as DICOM series with a patient's name in them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SCANS = {
    "path": "scan",
    "mask": "drawn",
    "labels": ["around", "cube"],
    "size": 16,
    "extent": [16, 16, 32],
    "spacing": [1.0, 1.0, 1.0],
    "range": [0.0, 255.0],
}
PATIENT = "Smith^Susan"


def save_volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_scans(path: Path, *, scans: int = 24) -> Path:
    """A bright cube somewhere in noise, and a mask of it, with a table of both."""
    random = np.random.default_rng(0)
    rows = [["scan", "drawn"]]
    for number in range(scans):
        values = random.integers(0, 100, (16, 16, 32)).astype(np.int16)
        mask = np.zeros(values.shape, np.uint8)
        x, y, z = random.integers(0, (5, 5, 21))
        at = np.s_[x : x + 12, y : y + 12, z : z + 12]
        values[at] += 120
        mask[at] = 1
        save_volume(path.with_name(f"{number}.nii"), values)
        save_volume(path.with_name(f"{number}-mask.nii"), mask)
        rows.append([f"{number}.nii", f"{number}-mask.nii"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_slice(path: Path, pixels: np.ndarray, position: list[float], **changes: Any) -> Path:
    """One axial slice, uint16[rows, columns], by slope 2 and intercept -1000; None takes a tag away."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    values: dict[str, Any] = {
        "PatientName": PATIENT,
        "PatientID": "S-4711",
        "StudyDate": "20260131",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelSpacing": [2.0, 0.5],
        "ImagePositionPatient": position,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for tag, value in (values | changes).items():
        if value is not None:
            setattr(made, tag, value)
    path.parent.mkdir(exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, voxels: np.ndarray, **changes: Any) -> Path:
    """Slices of uint16[columns, rows, slices], 3 mm apart, in files whose names are in another order."""
    for z in range(voxels.shape[2]):
        position = [-10.0, -20.0, 5.0 + 3.0 * z]
        write_slice(folder / f"{(7 * z) % 10}.dcm", voxels[:, :, z].T, position, **changes)
    return folder
