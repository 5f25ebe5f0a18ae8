"""What series and single images of DICOM have in common: how pixels are packed, without a word beside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEEDED = "is DICOM, which needs pydicom: pip install 'confide[imaging]'"
# How pixels are packed, and what their numbers mean. None says who a patient is, when or where an image was
# made, or which study it belongs to. Group 2, which says how the rest is written, is read beside them.
PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelData",
)
_START, _MARK = 128, b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM's do, whatever its name. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_START + len(_MARK))[_START:] == _MARK


def is_deflated(path: Path) -> bool:
    """Whether a file is deflated: it would be unpacked whole before its size is known."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    told: Any = read_file_meta_info(path)
    return bool(told.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)


def lacks_decoder(found: Any) -> str | None:
    """How pixels are packed, by its name, if nothing that is installed can unpack them."""
    syntax = found.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return None
    from pydicom.pixels import get_decoder

    try:
        can = get_decoder(syntax).is_available
    except NotImplementedError:
        can = False
    return None if can else str(syntax.name)


@contextmanager
def silent() -> Iterator[None]:
    """Without pydicom's warnings and logs, which may quote what is in a file."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.disabled = before
