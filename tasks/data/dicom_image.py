"""A DICOM file as one image, such as an X-ray: 8 bits, as its own window shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.dicom_file import NEEDED, PIXEL_TAGS, is_deflated, lacks_decoder, silent
from tasks.data.named_files import UnreadableFileError

# All that is read of a file.
TAGS = (*PIXEL_TAGS, "WindowCenter", "WindowWidth", "VOILUTFunction")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom makes RGB of the others
_BYTES_A_PIXEL = 8  # of a file, for as many pixels as an image may have
_STEP = 1e-6  # the width of a window that is one step


def read_dicom_image(path: Path, *, most: int) -> NDArray[np.uint8]:
    """A file's first frame, uint8[rows, columns, 3], where white is most, of at most ``most`` pixels.

    Greys are numbers by slope and intercept, seen by the first window that the file says. Without any,
    unsigned ones of 8 bits or fewer go from 0 to the most that their bits hold: of others nothing says what
    is black. Source: DICOM PS3.3, C.11.2.1.2. Raises UnreadableFileError, and quotes nothing that is in it.
    """
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError:
        raise UnreadableFileError(NEEDED) from None
    try:
        if path.stat().st_size > _BYTES_A_PIXEL * most:
            raise UnreadableFileError(f"has more than {_BYTES_A_PIXEL * most >> 20} MiB")
        with silent():
            if is_deflated(path):
                raise UnreadableFileError("is deflated DICOM: write it again without that")
            found: Any = pydicom.dcmread(path, specific_tags=list(TAGS))
            _check_form(found, most)
            if found.SamplesPerPixel == 3:
                return np.array(pixel_array(found, index=0), np.uint8)
            ends = _window(found)
            greys = _as_seen(found, pixel_array(found, index=0), *ends)
            return np.repeat(greys[:, :, None], 3, axis=2)
    except UnreadableFileError:
        raise
    except Exception:  # pydicom and its decoders raise whatever they like on damaged files
        raise UnreadableFileError("is damaged, or was not written whole") from None


def _check_form(found: Any, most: int) -> None:
    """Raises UnreadableFileError for what is no image, or is packed in an unknown way."""
    if "PixelData" not in found:
        raise UnreadableFileError("is DICOM without pixels")
    kind = found.get("PhotometricInterpretation")
    grey = found.get("SamplesPerPixel") == 1 and kind in _GREYS
    colours = found.get("SamplesPerPixel") == 3 and kind in _COLOURS
    if not grey and not (colours and found.BitsAllocated == 8):
        raise UnreadableFileError("is DICOM of other pixels than greys, or red, green and blue of 8 bits")
    if "ModalityLUTSequence" in found:
        raise UnreadableFileError("is DICOM whose numbers are places in a table: expected a slope")
    if found.Rows * found.Columns > most:
        raise UnreadableFileError(f"has more than {most:,} pixels")
    if (packing := lacks_decoder(found)) is not None:
        raise UnreadableFileError(
            f"is DICOM packed as {packing}: write it again without compression, or install a decoder of "
            "pydicom's"
        )


def _window(found: Any) -> tuple[float, float]:
    """From where to where numbers go from black to white, after slope and intercept."""
    centre, width = _first(found.get("WindowCenter")), _first(found.get("WindowWidth"))
    if centre is None or width is None:
        plain = float(found.get("RescaleSlope", 1)) == 1 and float(found.get("RescaleIntercept", 0)) == 0
        if not plain or found.PixelRepresentation or found.BitsStored > 8:
            raise UnreadableFileError("is DICOM that says no window: write its centre and width into it")
        return 0.0, 2.0**found.BitsStored - 1
    form = found.get("VOILUTFunction", "LINEAR")
    if form == "LINEAR" and 1 <= width < np.inf:
        # It counts steps: of width 1 there is one, of width 2 two, and so on.
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    if form == "LINEAR_EXACT" and 0 < width < np.inf:
        return centre - width / 2, centre + width / 2
    raise UnreadableFileError("is DICOM with a window that is not linear, or has no width")


def _first(told: Any) -> float | None:
    """The first of one number or several; None of none."""
    found = np.ravel([] if told is None else np.asarray(told, np.float64))
    return float(found[0]) if found.size else None


def _as_seen(found: Any, stored: Any, low: float, high: float) -> NDArray[np.uint8]:
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    if not np.isfinite([slope, intercept, low, high]).all():
        raise UnreadableFileError("is DICOM with numbers that are not finite")
    values = np.asarray(stored, np.float32) * np.float32(slope) + np.float32(intercept)
    place = np.clip((values - np.float32(low)) / np.float32(max(high - low, _STEP)), 0, 1)
    # What is finite in a file may not be so in float32.
    greys: NDArray[np.uint8] = np.rint(np.nan_to_num(place) * 255).astype(np.uint8)
    return np.invert(greys) if found.PhotometricInterpretation == "MONOCHROME1" else greys
