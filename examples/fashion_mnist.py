"""Writes the data of images.toml: Fashion-MNIST as PNG files, a folder for each kind of clothing.

The archive is Debian's package dataset-fashion-mnist (MIT), which puts four files into the folder that is
read by default:

    apt-get install dataset-fashion-mnist
    python examples/fashion_mnist.py
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("shirt-t", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TO = Path(__file__).with_name("fashion-mnist")
# The first so many of each part, in the archive's own order, which is mixed.
COUNTS = {"train": 40_000, "test": 2_000}


def write(archive: Path, to: Path) -> None:
    """Write the first images of both parts of the archive, as TO/PART/KIND/NUMBER.png."""
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _numbers(archive / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _numbers(archive / f"{prefix}-labels-idx1-ubyte.gz", 8)
        for kind in KINDS:
            (to / part / kind).mkdir(parents=True, exist_ok=True)
        for number, label in enumerate(labels[: COUNTS[part]]):
            Image.fromarray(pixels[number]).save(to / part / KINDS[label] / f"{number:05d}.png")


def _numbers(path: Path, head: int) -> np.ndarray:
    """What an IDX file holds after its head of so many bytes: uint8."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=head)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    write(chosen.archive, chosen.to)
    print(f"Wrote {sum(COUNTS.values()):,} images to {chosen.to}")
