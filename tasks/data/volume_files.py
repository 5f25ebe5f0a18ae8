"""Volumes as people have them, NIfTI files and folders with a DICOM series, turned to one side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.dicom_series import read_series
from tasks.data.image_files import MOST_PIXELS
from tasks.data.named_files import UnreadableFileError

_SUFFIXES = (".nii", ".nii.gz")
_DAMAGED = "is damaged, or was not written whole"
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # in a unit of NIfTI's; unknown ones are millimetres


@dataclass(frozen=True, kw_only=True)
class Volume:
    """``values``, float32[x, y, z], right, front and top first (RAS), in the unit of the file.

    ``affine``, float64[4, 4], says where a voxel is, in millimetres.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Millimetres between voxels, [3]."""
        found: NDArray[np.float64] = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return found

    @property
    def corners(self) -> NDArray[np.float64]:
        """Where the first and the last voxel are, [2, 3]."""
        ends = np.array([np.zeros(3), np.array(self.values.shape) - 1])
        found: NDArray[np.float64] = ends @ self.affine[:3, :3].T + self.affine[:3, 3]
        return found


def is_volume(path: Path) -> bool:
    """Whether a path is a NIfTI volume's, by its name, or a folder."""
    return path.name.lower().endswith(_SUFFIXES) or path.is_dir()


def read_volume(path: Path, what: str) -> Volume:
    """A NIfTI file, or a folder with a DICOM series, with its own slope and intercept.

    Raises UnreadableFileError, which begins with ``what`` it is, such as "its mask ".
    """
    try:
        import nibabel
    except ImportError:
        kind = "DICOM" if path.is_dir() else "NIfTI"
        raise UnreadableFileError(
            f"{what}is {kind}, which needs nibabel: pip install 'confide[imaging]'"
        ) from None
    try:
        if path.is_dir():
            values, affine = read_series(path)
            image: Any = nibabel.Nifti1Image(values, affine)
            scale = 1.0
        else:
            if not path.stat().st_size:
                raise UnreadableFileError("is empty")
            image = nibabel.load(path)
            if len(image.shape) != 3:
                raise UnreadableFileError(f"has {len(image.shape)} dimensions, expected 3")
            if np.prod(image.shape, dtype=np.float64) > MOST_PIXELS:
                raise UnreadableFileError(f"has more than {MOST_PIXELS:,} voxels")
            scale = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
        turned = nibabel.as_closest_canonical(image)
        affine = np.array(turned.affine, np.float64)
        affine[:3] *= scale
        return Volume(values=np.asarray(turned.dataobj, dtype=np.float32), affine=affine)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{what}{error}") from None
    except FileNotFoundError:
        raise UnreadableFileError(f"{what}is not there") from None
    except Exception:  # nibabel raises whatever it likes on damaged files
        raise UnreadableFileError(f"{what}{_DAMAGED}") from None
