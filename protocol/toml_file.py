"""TOML that people write: read in one way, and what is wrong with it told in words."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """A file's tables, with a byte order mark or without.

    Raises FileNotFoundError and other OSErrors, and ValueError saying what keeps the file from being TOML.
    """
    return parse_toml(toml_text(path))


def toml_text(path: Path) -> str:
    """A file's text. Raises what ``read_toml`` raises for one that is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8, from byte {error.start + 1} on") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables that a text says. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not TOML: {error}") from None
    except RecursionError:
        raise ValueError("its lists or tables lie in one another too deeply") from None
