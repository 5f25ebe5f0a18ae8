"""Which of the models that a job names a site loads, and from where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from privacy.errors import ModelError
from protocol.job import ModelSection

_PACKAGE = re.compile(r"package:[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_HUB = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def local_source(model: ModelSection, mapped: Mapping[str, str]) -> str:
    """Where a job's model is at this site: as ``[models]`` in site.toml says, else as the job does.

    A job names a package or a Hugging Face id; a path only by way of that table. Raises ModelError for
    anything else.
    """
    source = model.source
    if model.gguf is not None and not _FILE.fullmatch(model.gguf):
        raise ModelError(f"model.gguf={model.gguf!r}: expected a file's name inside the source")
    if source in mapped:
        return mapped[source]
    # An id that is a folder here would be loaded from it, and a job must not read this machine's folders.
    hub = bool(_HUB.fullmatch(source)) and not Path(source).exists()
    if not (hub or _PACKAGE.fullmatch(source)):
        raise ModelError(
            f"model.source={source!r} is a path: a job names a package or a Hugging Face id. If you "
            f'have this model, add to [models] in site.toml: "{source}" = "/where/it/is"'
        )
    return source
