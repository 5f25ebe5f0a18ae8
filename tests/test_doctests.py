"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_ROOMS = ("client", "confide", "privacy", "protocol", "runs", "server", "simulation", "strategies", "tasks")


def _modules_with_examples() -> list[str]:
    """Those whose text has a prompt: the others need not be loaded to look."""
    files = (file for room in _ROOMS for file in sorted((_ROOT / room).rglob("*.py")))
    with_examples = (file.relative_to(_ROOT) for file in files if ">>> " in file.read_text("utf-8"))
    return [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in with_examples]


@pytest.mark.parametrize("module", _modules_with_examples())
def test_the_examples_of_a_module(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
