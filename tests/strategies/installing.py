"""Packages that offer strategies, as pip would install them."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, value: str) -> None:
    """Write what pip does of a package that offers one strategy."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[confide.strategies]\n{name} = {value}\n")
