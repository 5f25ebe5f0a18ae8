"""Writes made-up parts, a photo and a report each, beside this file: for the job noted-parts.toml.

    python examples/make_parts.py

A photo shows a mark in a part's seam, which is above, or in its body, below, and a report says whether the
part leaks. What is to be done follows from both: so either alone leaves two of the four answers. Of ten
parts one has no photo and one no report.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TO = Path(__file__).with_name("noted-parts")
COUNT, SIZE = 2400, 24
_STEP = 16  # between levels of grey, so that files are small

# By where the mark is and whether the part leaks.
WHAT = {
    (True, True): "weld",
    (True, False): "watch",
    (False, True): "scrap",
    (False, False): "leave",
}
LEAKS = ("leaks", "drips", "loses oil", "leaking at one end")
TIGHT = ("holds pressure", "is tight", "dry", "no oil lost")
AROUND = (
    "seen on line {line} , {found}",
    "{found} , shift {line}",
    "returned by a customer : {found}",
    "checked twice , {found} , put on rack {line}",
    "{found} when tested at bench {line}",
)


def draw_photo(in_seam: bool, random: np.random.Generator) -> NDArray[np.uint8]:
    """A part in greys, uint8[size, size], with a dark mark in its upper or its lower half."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    pixels = random.normal(150, 14, (SIZE, SIZE)) + 15 * random.standard_normal()
    middle = random.uniform(0.2 * SIZE, 0.35 * SIZE) + (0 if in_seam else 0.45 * SIZE)
    off = rows - middle, columns - random.uniform(0.25 * SIZE, 0.75 * SIZE)
    angle = random.uniform(0, np.pi)
    across = off[0] * np.cos(angle) + off[1] * np.sin(angle)
    along = off[1] * np.cos(angle) - off[0] * np.sin(angle)
    marked = np.hypot(across / random.uniform(2, 3), along / random.uniform(4, 6)) < 1
    pixels[marked] -= random.uniform(60, 100)
    levels: NDArray[np.uint8] = (np.clip(pixels, 0, 255) // _STEP * _STEP).astype(np.uint8)
    return levels


def write(to: Path, *, count: int = COUNT, seed: int = 0) -> int:
    """Write photos and parts.csv, the same from one seed; how many parts."""
    random = np.random.default_rng(seed)
    (to / "photos").mkdir(parents=True, exist_ok=True)
    rows = [["path", "text", "label"]]
    for number in range(count):
        in_seam, leaks = (bool(one) for one in random.integers(2, size=2))
        name = f"photos/{number:04d}.png"
        photo = Image.fromarray(draw_photo(in_seam, random))
        found = str(random.choice(LEAKS if leaks else TIGHT))
        report = str(random.choice(AROUND)).format(found=found, line=random.integers(1, 7))
        lacking = random.random()
        if lacking < 0.1:
            name = ""
        else:
            photo.save(to / name, optimize=True)
        rows.append([name, "" if 0.1 <= lacking < 0.2 else report, WHAT[in_seam, leaks]])
    with (to / "parts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return count


if __name__ == "__main__":
    print(f"Wrote {write(TO):,} parts to {TO}")
