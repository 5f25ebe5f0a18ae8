"""Small data sets and jobs for tasks whose network is their own."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TABULAR = {
    "label": "kind",
    "labels": ["low", "high"],
    "numbers": {"height": [-2.0, 2.0], "weight": [-2.0, 2.0]},
    "categories": {"home": ["north", "south"]},
}
IMAGES = {"labels": ["above", "below"], "size": 16, "colours": False}
EVENTS = {
    "label": "kind",
    "labels": ["usual", "odd"],
    "entity": "card",
    "time": "when",
    "numbers": {"amount": [0.0, 4.0], "spent": [0.0, 4.0]},
    "categories": {"shop": ["food", "fuel"]},
    "told_after": ["spent"],
    "length": 6,
}
SERIES = {
    "label": "kind",
    "labels": ["rise", "fall"],
    "entity": "machine",
    "time": "when",
    "channels": {"x": [-4.0, 4.0], "y": [-4.0, 4.0]},
    "length": 12,
}


def write_table(path: Path, *, rows: int = 160) -> Path:
    """Rows whose label follows from the sum of two numbers; every tenth lacks one of them."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["home", "weight", "height", "kind"])
        for row, (height, weight) in enumerate(random.standard_normal((rows, 2))):
            kind = "high" if height + weight > 0 else "low"
            home = ("north", "south", "east")[row % 3]
            writer.writerow([home, f"{weight:.6f}", "" if row % 10 == 0 else f"{height:.6f}", kind])
    return path


def write_series(path: Path, *, entities: int = 60) -> Path:
    """Entities whose channel x rises or falls, 10 to 14 moments each, rows in no order."""
    random = np.random.default_rng(0)
    rows = []
    for entity in range(entities):
        slope = 1 if entity % 2 else -1
        for moment in range(int(random.integers(10, 15))):
            x, y = slope * (moment - 6) / 3 + 0.1 * random.standard_normal(), random.standard_normal()
            rows.append([f"m{entity}", moment, f"{x:.5f}", f"{y:.5f}", "rise" if slope > 0 else "fall"])
    random.shuffle(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["machine", "when", "x", "y", "kind"], *rows])
    return path


def write_events(path: Path, *, accounts: int = 80) -> Path:
    """Accounts of 3 to 9 events, in no order; the last amount of odd ones is high, as "spent" tells."""
    random = np.random.default_rng(0)
    rows = []
    for account in range(accounts):
        kind, count = ("usual", "odd")[account % 2], int(random.integers(3, 10))
        for event in range(count):
            high = kind == "odd" and event == count - 1
            amount = random.uniform(2.5, 4) if high else random.uniform(0, 3)
            shop = ("food", "fuel", "books")[int(random.integers(3))]
            at = 3600 * event + int(random.integers(3600))
            rows.append([f"c{account}", at, f"{amount:.4f}", 4 if high else 0, shop, kind])
    random.shuffle(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["card", "when", "amount", "spent", "shop", "kind"], *rows])
    return path


def write_images(path: Path, *, images: int = 60) -> Path:
    """Noise that is bright above or below, grey, in a folder for each, 16 to 20 pixels wide."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(images):
        pixels = random.integers(0, 100, (16, 16 + number % 5), np.uint8)
        kind = ("above", "below")[number % 2]
        pixels[:8] += np.uint8(100 * (kind == "above"))
        pixels[8:] += np.uint8(100 * (kind == "below"))
        folder = path.with_suffix("") / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return path.with_suffix("")


def job_table(task: str, source: Path, keys: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A job that simulates two sites for two short rounds."""
    return {
        "name": "networks",
        "task": task,
        "model": {"source": "drawn"},
        "data": {"source": str(source), "holdout": 0.2, **keys},
        "federation": {"sites": 2},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 8, "physical_batch_size": 8},
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
        **changes,
    }
