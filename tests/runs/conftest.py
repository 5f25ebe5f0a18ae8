"""A run of three rounds, made once a module and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tests import tiny
from tests.server.evidence import Evidence, Witness


@pytest.fixture(scope="module")
def evidence(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    witness = Witness(folder / "run", folder / "copies")
    simulate(tiny.job(tiny_folder), runs=folder, name="run", progress=witness)
    return Evidence(run=folder / "run", earlier={n: folder / "copies" / str(n) for n in (1, 2, 3)})


@pytest.fixture
def run(evidence: Evidence, tmp_path: Path) -> RunFolder:
    shutil.copytree(evidence.run, tmp_path / "run", symlinks=True)
    return RunFolder.open(tmp_path / "run")
