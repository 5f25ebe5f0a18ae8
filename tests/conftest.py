"""What holds for every test: no network, and few threads."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small spend their time waiting for threads if there are several.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny job's model and data. Tests read it and write elsewhere."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.table(folder)
    return folder
