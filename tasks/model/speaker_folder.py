"""The folder of an encoder of voices: which one it is, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from privacy.errors import ModelError
from tasks.data.package_path import locate

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "speaker-encoder"  # its model_type
_MOST_BYTES = 1 << 16


def is_speaker_encoder(source: str) -> bool:
    """Whether a job's ``model.source`` is a folder whose config.json says that it has an encoder of voices.

    What cannot be read is none.
    """
    try:
        with (Path(locate(source)) / CONFIG).open("rb") as file:
            table = json.loads(file.read(_MOST_BYTES))
    except (ModelError, OSError, ValueError, RecursionError):
        return False
    return isinstance(table, dict) and table.get("model_type") == KIND
