"""The noise that is known to be in a run's last adapter is the noise that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.session import plan_training
from runs.averaged_adapter import average_weights
from runs.run_folder import RunFolder
from server.known_noise import noise_of_average
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

# So little ε, or so low a rate under noise for whole sites, that runs differ by their noise alone.
STILL: dict[str, Any] = {
    "training": {"rounds": 3, "learning_rate": 1e-3, "decay": "linear", "rates": {"lora_B": 4.0}},
    "strategy": {"name": "ffa"},
    "privacy": {"epsilon": 0.05},
}
SITES = {"unit": "site", "mechanism": "skellam", "epsilon": 8.0}


def finished(folder: Path, runs: Path, changes: dict[str, Any], *, seed: int = 0) -> RunFolder:
    job = tiny.job(folder, **STILL | changes | {"seeds": {"noise": seed}})
    return RunFolder.open(simulate(job, runs=runs, name=f"run-{seed}", workers=1).folder)


def test_the_noise_of_equal_sites_is_that_of_their_steps(tiny_folder: Path, tmp_path: Path) -> None:
    run = finished(tiny_folder, tmp_path, {})
    job = run.manifest.job
    layout = World(job).adapted.layout
    plan = plan_training(job, 64, rounds=3)
    step = plan.noise_std / job.training.batch_size / 3**0.5  # of the mean of three sites
    rates = 1e-3 * np.array([6, 5, 4, 3, 2, 1]) / 6
    noise = noise_of_average(run, layout, average_weights("none", 3))
    for name, found in noise.items():
        factor = 4.0 if ".lora_B." in name else 1.0
        assert found == pytest.approx(factor * step * np.linalg.norm(rates))
    # Of the mean of the last two adapters, the last round's steps count half.
    half = noise_of_average(run, layout, average_weights("polyak", 3))
    rates[4:] /= 2
    assert half["base_model.model.classifier.weight"] == pytest.approx(step * np.linalg.norm(rates))


@pytest.mark.statistics
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"privacy": {"epsilon": 0.05, "noise_correlation": "banded", "bands": 2}},
        {"privacy": {"epsilon": 0.05, "clipping_quantile": 0.5}},
        {"privacy": SITES, "aggregation": {"kind": "masks"}},
        {"strategy": {"name": "fedsvd"}},
    ],
    ids=["independent", "correlated", "quantile", "sites", "turned"],
)
def test_known_noise_is_what_runs_differ_by(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    runs = [finished(tiny_folder, tmp_path, changes, seed=seed) for seed in range(5)]
    layout = World(runs[0].manifest.job).adapted.layout
    known = noise_of_average(runs[0], layout, average_weights("none", 3))
    squares, expected, count = 0.0, 0.0, 0
    adapters = [layout.split(run.newest_adapter(layout)) for run in runs]
    for name, std in known.items():
        # A turned basis keeps the length of B.
        found = np.stack([adapter[name].astype(np.float64) for adapter in adapters])
        squares += float(np.sum((found / std) ** 2))
        count += found.size
        expected += found.size
    # A sum of n squares of normal numbers is off by √(2/n) of it: five of them are 0.35 here. Two
    # thirds and three halves of the noise would be off by more than a half.
    assert squares / expected == pytest.approx(1.0, abs=5.0 * (2.0 / count) ** 0.5)
