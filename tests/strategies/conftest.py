"""Strategies of other packages, installed for a test."""

from __future__ import annotations

import pytest

from tests.strategies.installing import install


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strategies that are none of ours, as pip would install them."""
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder, "momentum", "tests.strategies.momentum:Momentum")
    install(folder, "middle", "tests.strategies.middle:Middle")
    monkeypatch.syspath_prepend(folder)
