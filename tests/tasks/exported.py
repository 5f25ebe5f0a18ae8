"""The programs that exports bring along, as whoever gets one runs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any


def exported_program(path: Path) -> ModuleType:
    """The module in a file of an export."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported_network(folder: Path) -> Any:
    """What the folder's own network.py loads from it."""
    return exported_program(folder / "network.py").load(str(folder))
