"""Whole runs with adapters on routed experts, by each rule that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_adapter
from runs.run import Run
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.families.mixtures import MIXTURES


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mixtral, and texts."""
    folder = tmp_path_factory.mktemp("experts")
    (mixtral,) = (family for family in MIXTURES if family.name == "Mixtral")
    (folder / "model").mkdir()
    mixtral.build(folder / "model")
    tiny.write_csv(folder / "data.csv", tiny.rows(90))
    return folder


def job(place: Path, **sections: Any) -> Job:
    return parse_job(
        {
            "name": "experts",
            "task": "causal-lm",
            "model": {"source": str(place / "model")},
            "adapter": {"rank": 2, "target_modules": ["q_proj", "experts"]},
            "data": {"source": str(place / "data.csv"), "max_length": 8, "holdout": 0.1},
            "federation": {"sites": 3},
            "training": {
                "rounds": 2,
                "local_steps": 1,
                "batch_size": 8,
                "physical_batch_size": 8,
                "learning_rate": 1.0,
            },
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "device": {"name": "cpu", "precision": "float32", "threads": 1},
            **sections,
        }
    )


def moved(run: Run) -> set[str]:
    """The tensors that the last round's adapter has otherwise than the first."""
    folder = RunFolder.open(run.folder)
    layout = World(folder.manifest.job).adapted.layout
    begun, found = (layout.split(folder.load_adapter(number, layout)) for number in (0, 2))
    return {name for name, tensor in begun.items() if not np.array_equal(tensor, found[name])}


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", ["fedsvd", "ffa", "fedit", "rolora", "fedsa"])
def test_experts_are_trained_under_masks(place: Path, tmp_path: Path, name: str) -> None:
    run = simulate(job(place, strategy={"name": name}), runs=tmp_path)
    assert set(run.epsilon) == {"site-1", "site-2", "site-3"}
    assert max(run.epsilon.values()) == pytest.approx(8.0, rel=0.01)
    audit_run(RunFolder.open(run.folder))
    halves = {"ffa": "B", "fedsa": "A"}.get(name, "AB")
    experts = {tensor for tensor in moved(run) if ".experts." in tensor}
    # Noise moves what no example reaches too.
    assert len(experts) == 2 * 2 * 4 * len(halves)
    assert {tensor.split(".lora_")[1][0] for tensor in experts} == set(halves)
    export_adapter(RunFolder.open(run.folder), tmp_path / "exported")
    assert not (tmp_path / "exported" / "trained.safetensors").exists()


@pytest.mark.exhaustive
def test_sites_have_ranks_of_their_own_there(place: Path, tmp_path: Path) -> None:
    asked = {"rank": 2, "ranks": [1, 2, 2], "target_modules": ["q_proj", "experts"]}
    rule, plain = {"name": "flexlora"}, {"kind": "none"}
    run = simulate(job(place, strategy=rule, adapter=asked, aggregation=plain), runs=tmp_path)
    assert sum(".experts." in name for name in moved(run)) == 2 * 2 * 4 * 2
