"""A run's folder keeps the trees that its job names: moved, and without their file, it is still whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import JobError, ModelError, UserError
from protocol.job.job import Job
from runs.drift import find_drift
from runs.export import export_adapter, export_merged
from runs.progress import Progress
from runs.run_folder import RoundRecord, RunFolder
from server.coordinated_run import reopen_workplace
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests.tasks.data.tree_texts import ONE_LEAF, TREE, write_trees
from tests.tasks.networks import write_table
from tests.tasks.test_tabular_trees import make_job

OTHERS = (TREE, ONE_LEAF, TREE | {"threshold": "0.5 -0.26"})  # as many leaves


class StopAfterOne(Progress):
    """Stops a run once its first round is on the disk."""

    def round(self, record: RoundRecord) -> None:
        raise KeyboardInterrupt


def trees_of(job: Job) -> Path:
    return Path((job.data.model_extra or {})["trees"])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """One of whose trees nothing is left but what runs have kept."""
    return make_job(tmp_path_factory.mktemp("kept"), seeds={"noise": 5}, aggregation={"kind": "none"})


@pytest.fixture(scope="module")
def runs(job: Job) -> Path:
    """A run that has ended, and one that was stopped after its first round; then the trees are gone."""
    place = trees_of(job).parent / "runs"
    simulate(job, runs=place, name="whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, runs=place, name="cut", progress=StopAfterOne())
    export_merged(RunFolder.open(place / "whole"), place / "merged")
    trees_of(job).unlink()
    return place.rename(place.with_name("elsewhere"))


@pytest.fixture
def moved(runs: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(runs / "whole", tmp_path / "whole", symlinks=True)
    return RunFolder.open(tmp_path / "whole")


def test_a_run_that_was_moved_goes_on_the_same(runs: Path, job: Job, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"data\.trees: expected a text file"):
        World(job)
    shutil.copytree(runs / "cut", tmp_path / "cut", symlinks=True)
    assert len(resume(tmp_path / "cut").rounds) == 2
    last = [
        (place / "adapter" / "adapter_model.safetensors").read_bytes()
        for place in (runs / "whole", tmp_path / "cut")
    ]
    assert last[0] == last[1]


@pytest.mark.process
def test_its_workers_have_them_too(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "cut", tmp_path / "cut", symlinks=True)
    assert len(resume(tmp_path / "cut", workers=2).rounds) == 2


def test_the_coordinator_of_a_federation_loads_what_its_folder_keeps(moved: RunFolder) -> None:
    found = reopen_workplace(moved)
    assert found.adapted.model_digest == moved.manifest.model_digest
    assert found.job == moved.manifest.job  # the manifest says where they were


def test_it_is_exported_as_before(moved: RunFolder, runs: Path, tmp_path: Path) -> None:
    export_merged(moved, tmp_path / "merged")
    for name in ("network.safetensors", "network.json", "network.py"):
        assert (tmp_path / "merged" / name).read_bytes() == (runs / "merged" / name).read_bytes()
    export_adapter(moved, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_drift_is_told_by_tree(moved: RunFolder, runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    data = write_table(tmp_path / "held.csv", rows=12)
    drift = find_drift(moved, RunFolder.open(runs / "whole"), data)
    assert (drift.examples, drift.changed) == (12, 0)
    assert drift.agreement == pytest.approx(1.0)
    parts = {one.part for one in drift.parts}
    assert parts == {"height", "home", "weight", *(f"data.trees[{tree}]" for tree in range(3))}


def test_a_copy_that_was_changed_is_refused(moved: RunFolder, tmp_path: Path) -> None:
    copy = write_trees(Path(moved.model_files["trees"]), OTHERS)
    assert copy.is_relative_to(moved.path)
    words = (
        rf"model\.source='drawn' with data\.trees='{copy}' is not the model of this run: expected SHA-256"
    )
    with pytest.raises(UserError, match=words):
        export_merged(moved, tmp_path / "merged")
    pytest.importorskip("captum")
    with pytest.raises(UserError, match=words):
        find_drift(moved, moved, write_table(tmp_path / "held.csv", rows=12))
    with pytest.raises(JobError, match="was started with another model"):
        resume(moved.path)
    copy.write_text("no trees")
    with pytest.raises(ModelError, match=r"data\.trees: expected a text file that LightGBM saved"):
        export_merged(moved, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_without_a_copy_they_are_where_the_job_says(
    moved: RunFolder, job: Job, runs: Path, tmp_path: Path
) -> None:
    Path(moved.model_files["trees"]).unlink()
    assert moved.model_files == {}
    with pytest.raises(ModelError, match=r"data\.trees: expected a text file .* found none at"):
        export_merged(moved, tmp_path / "merged")
    try:
        write_trees(trees_of(job))
        export_merged(moved, tmp_path / "merged")
    finally:
        trees_of(job).unlink()
    weights = [(place / "merged" / "network.safetensors").read_bytes() for place in (runs, tmp_path)]
    assert weights[0] == weights[1]


def test_a_variant_of_a_run_keeps_what_was_loaded(job: Job, runs: Path, tmp_path: Path) -> None:
    """Baselines are made when their run has ended, and the file may be gone by then."""
    kept = RunFolder.open(runs / "whole").model_files
    folder = World(job, files=kept).create_folder(tmp_path / "beside")
    assert Path(folder.model_files["trees"]).read_bytes() == Path(kept["trees"]).read_bytes()
    np.testing.assert_array_equal(
        folder.load_adapter(0, World(job, files=folder.model_files).adapted.layout),
        World(job, files=kept).initial_adapter,
    )
