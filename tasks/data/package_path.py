"""Files inside installed packages: ``package:NAME/PATH`` in a job or a ``site.toml``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from privacy.errors import ModelError


def package_path(source: str) -> Path:
    """The file or folder that ``package:NAME/PATH`` names inside an installed package.

    The package is located, not imported: packages that carry weights often import a runtime that is
    not needed here. Raises ModelError if it is not installed or holds no such path.
    """
    name, _, inside = source.removeprefix("package:").partition("/")
    # Of a name with dots its parents would be imported.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"source={source!r}: the package {name!r} is not installed; "
            "install the demo's parts (see the README) or name a folder or a Hugging Face id"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise ModelError(f"source={source!r}: the package {name!r} has no {inside!r}")
    return path


def locate(source: str) -> str:
    """The path that a source names, or the Hub's id. Raises ModelError as ``package_path`` does."""
    return str(package_path(source)) if source.startswith("package:") else source
