"""A base model's name for those who have neither the coordinator's disk nor its packages."""

from __future__ import annotations

import re
from pathlib import Path

_HUB = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?")


def hub_id(source: str) -> str | None:
    """The Hugging Face id that a job's ``model.source`` is, None for a folder or a package's files."""
    return source if _HUB.fullmatch(source) and not Path(source).exists() else None


def public_name(source: str) -> str:
    """The same, or a folder by its last name alone: where it lies is nobody else's to know.

    >>> public_name("org/model"), public_name("package:gt/model"), public_name("/home/me/models/bert")
    ('org/model', 'package:gt/model', 'bert')
    """
    return source if hub_id(source) or source.startswith("package:") else Path(source).name
