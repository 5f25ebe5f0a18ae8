"""Writes the data of defects.toml: solar cells by their own light, and which have a defect.

The images are the ELPV data set's, for non-commercial use (CC-BY-NC-SA-4.0): a package has them.

    pip install --no-deps 'elpv-dataset==1.0.0.post1'
    python examples/solar_cells.py

A cell counts as defective where the experts' probability of that is two thirds at least.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from PIL import Image

from tasks.data.package_path import package_path

TO = Path(__file__).with_name("solar-cells")
SIDE = 128
DEFECTIVE = 0.6  # probabilities are 0, 0.33, 0.67 and 1


def write(data: Path, to: Path) -> int:
    """Write cells, in greys, and cells.csv, with a label and the kind of module of each; how many."""
    to.mkdir(parents=True, exist_ok=True)
    rows = []
    for line in (data / "labels.csv").read_text("utf-8").splitlines():
        place, probability, kind = line.split()
        path = to / Path(place).name
        Image.open(data / place).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).save(path)
        rows.append([path.name, "defective" if float(probability) > DEFECTIVE else "sound", kind])
    with (to / "cells.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["path", "label", "module"], *rows])
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    print(f"Wrote {write(package_path('package:elpv_dataset/data'), chosen.to):,} cells to {chosen.to}")
