"""Writes the data of segmentation.toml, patches of a head's slices with masks of its tissue, as PNG files,
and of volumes.toml, the head and its mask as NIfTI files.

It is ONE head, the mean of 152 people's (MNI ICBM 2009a, in nilearn's wheel): patches of it say that all of
this runs, and nothing of what it would take to protect a patient.

    pip install 'confide[imaging]'
    pip install --no-deps nilearn==0.14.1
    python examples/brain.py
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

TO = Path(__file__).with_name("brain")
SIDE = 48  # of a patch, in pixels of a millimetre
LEAST = 0.25  # of a patch has to be tissue
_EVEN = 255 / 3  # of probability: three kinds


def write(folder: Path, to: Path) -> int:
    """Write the T1 image and where grey and white matter are likeliest, and patches of both; how many."""
    images = [
        nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    ]
    scan, grey, white = (np.asarray(image.dataobj) for image in images)
    labels = np.where(np.maximum(grey, white) < _EVEN, 0, np.where(grey >= white, 1, 2)).astype(np.uint8)
    to.mkdir(parents=True, exist_ok=True)
    for name, values in (("head", scan), ("head-mask", labels)):
        nibabel.save(nibabel.Nifti1Image(values, images[0].affine), to / f"{name}.nii.gz")
    (to / "volumes.csv").write_text("path,mask\nhead.nii.gz,head-mask.nii.gz\n", encoding="utf-8")
    pixels = (255 * (scan / scan.max())).astype(np.uint8)
    rows = []
    for z in range(scan.shape[2]):
        for x in range(0, scan.shape[0] - SIDE + 1, SIDE):
            for y in range(0, scan.shape[1] - SIDE + 1, SIDE):
                place = np.s_[x : x + SIDE, y : y + SIDE, z]
                if (labels[place] > 0).mean() < LEAST:
                    continue
                name = f"{z:03d}-{x:03d}-{y:03d}"
                Image.fromarray(pixels[place]).save(to / f"{name}.png")
                Image.fromarray(labels[place]).save(to / f"{name}-mask.png")
                rows.append([f"{name}.png", f"{name}-mask.png"])
    with (to / "patches.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["path", "mask"], *rows])
    return len(rows)


def _in_nilearn() -> Path:
    """Where the wheel's images lie; it is not imported."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise SystemExit("expected nilearn: pip install --no-deps nilearn==0.14.1")
    return Path(found.origin).parent / "datasets" / "data"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, help="where nilearn's images are")
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    print(
        f"Wrote {write(chosen.folder or _in_nilearn(), chosen.to):,} patches, and the head, to {chosen.to}"
    )
