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
SOUNDS = {"labels": ["high", "low"], "seconds": 0.25, "rate": 8000}
SERIES = {
    "label": "kind",
    "labels": ["rise", "fall"],
    "entity": "machine",
    "time": "when",
    "channels": {"x": [-4.0, 4.0], "y": [-4.0, 4.0]},
    "length": 12,
}

PAIRS = {
    "path": "picture",
    "caption": "words",
    "size": 16,
    "colours": False,
    "bank": [
        f"{light} {place} {number}"
        for light in ("dark", "dim")
        for place in ("left", "right")
        for number in range(10)
    ],
}
NOTED = {
    "path": "picture",
    "text": "note",
    "label": "do",
    "labels": ["leave", "mend", "scrap"],
    "size": 16,
    "colours": False,
}
MASKS = {"path": "scan", "mask": "drawn", "labels": ["around", "square"], "size": 16}


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


def write_sounds(path: Path, *, sounds: int = 60) -> Path:
    """Tones in noise, high or low, in a folder for each; some in stereo, some at twice the rate."""
    from scipy.io import wavfile

    random = np.random.default_rng(0)
    for number in range(sounds):
        kind, rate = ("high", "low")[number % 2], (8_000, 16_000)[number % 3 == 0]
        moments = np.arange(int(rate * random.uniform(0.25, 0.6))) / rate
        hertz = random.uniform(1500, 2500) if kind == "high" else random.uniform(300, 600)
        wave = 0.2 * np.sin(2 * np.pi * hertz * moments) + 0.01 * random.standard_normal(len(moments))
        samples = np.rint(wave * 32768).astype(np.int16)
        folder = path.with_suffix("") / kind
        folder.mkdir(parents=True, exist_ok=True)
        both = np.stack([samples, samples], axis=1) if number % 5 == 0 else samples
        wavfile.write(folder / f"{number}.wav", rate, both)
    return path.with_suffix("")


def write_pairs(path: Path, *, pairs: int = 60) -> Path:
    """Bright squares above or below in a folder, and a table of their paths and captions."""
    folder = write_images(path, images=pairs)
    rows = [["picture", "words"]]
    for number in range(pairs):
        kind = ("above", "below")[number % 2]
        rows.append([f"{folder.name}/{kind}/{number}.png", f"Bright {kind} {number % 7}"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_noted(path: Path, *, rows: int = 60) -> Path:
    """Bright squares above or below with a note, wet or dry, and what both say together.

    Every tenth row has no picture, and every tenth no note.
    """
    folder = write_images(path, images=rows)
    random = np.random.default_rng(1)
    table = [["picture", "note", "do"]]
    for number in range(rows):
        kind, wet = ("above", "below")[number % 2], bool(random.integers(2))
        picture = "" if number % 10 == 3 else f"{folder.name}/{kind}/{number}.png"
        note = "" if number % 10 == 6 else f"Shift {number % 3}: {'it is wet' if wet else 'quite dry'}"
        table.append([picture, note, NOTED["labels"][(kind == "below") + wet]])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(table)
    return path


def write_masks(path: Path, *, images: int = 40) -> Path:
    """A bright square somewhere in noise, and a mask of it, with a table of both."""
    from PIL import Image

    random = np.random.default_rng(0)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [["scan", "drawn"]]
    for number in range(images):
        pixels, mask = random.integers(0, 100, (16, 16), np.uint8), np.zeros((16, 16), np.uint8)
        x, y = random.integers(0, 9, 2)
        pixels[y : y + 8, x : x + 8] += np.uint8(120)
        mask[y : y + 8, x : x + 8] = 1
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
        rows.append([f"{folder.name}/{number}.png", f"{folder.name}/{number}-mask.png"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


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
