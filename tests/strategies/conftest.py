"""Strategies of other packages, installed for a test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strategies that are none of ours, as pip would install them."""
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder, "momentum", "tests.strategies.momentum:Momentum")
    install(folder, "median", "tests.strategies.median:Median")
    monkeypatch.syspath_prepend(folder)


def install(folder: Path, name: str, value: str) -> None:
    """Write what pip does of a package that offers one strategy."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[confide.strategies]\n{name} = {value}\n")
