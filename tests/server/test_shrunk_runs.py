"""A run keeps its last adapter shrunk beside it, and says so wherever it is shown or exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runs.averaged_adapter import load_average, read_average
from runs.export import export_adapter
from runs.report.notices import find_notices
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny


@pytest.mark.parametrize("average", ["none", "polyak"])
def test_a_shrunk_adapter_is_kept_scored_and_told(tiny_folder: Path, tmp_path: Path, average: str) -> None:
    rounds = 1 if average == "none" else 2
    training = {"shrink": "singular", "average": average, "rounds": rounds, "local_steps": 1}
    strategy = {"name": "fedsvd" if average == "none" else "ffa"}
    job = tiny.job(tiny_folder, training=training, strategy=strategy)
    compare = average == "none"  # a run without noise, which has nothing to shrink by, is one of those
    run = RunFolder.open(simulate(job, runs=tmp_path, name="run", workers=1, compare=compare).folder)
    about = read_average(run)
    assert about is not None
    assert (about.kind, about.shrink, about.last) == (average, "singular", rounds)
    assert not compare or read_average(RunFolder.open(run.path / "compare" / "without-privacy")) is None
    layout = World(job).adapted.layout
    last, kept = run.newest_adapter(layout), load_average(run, layout)
    start = run.load_adapter(0, layout)
    assert 0 < np.linalg.norm(kept - start) < np.linalg.norm(last - start)
    words = "singular values of its change shrunk by how much of them known noise explains"
    assert about.words.endswith(words)
    (notice,) = (
        one
        for one in find_notices(run.manifest, run.records(), average=about)
        if one.title == "Beside the last adapter"
    )
    assert words in notice.text
    export_adapter(run, tmp_path / "out", average=True)
    assert words in (tmp_path / "out" / "README.md").read_text()
    card = json.loads((tmp_path / "out" / "privacy-card.json").read_text())["card"]
    assert card["averaged"] == about.words
