"""Sites of one process that train together: the same run, where that is faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.training.gradients import HookedGradients
from client.training.training import Trainer
from privacy.errors import PolicyError
from protocol.job.job import Job
from runs.run_folder import RunFolder
from simulation import cohort_grid, simulated_run
from simulation.cohort_grid import rows_together
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny


def job(folder: Path, **sections: object) -> Job:
    return tiny.job(folder, device={"name": "cpu", "precision": "float32", "threads": 1}, **sections)


def last_adapter(folder: Path) -> np.ndarray:
    run = RunFolder.open(folder)
    return run.load_state(len(run.records()), World(run.manifest.job).adapted.layout).adapter


def runs(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, **sections: object
) -> list[np.ndarray]:
    """The last adapters of one job, whose sites train apart in the first run and together in the second."""
    found, asked = [], job(folder, seeds={"noise": 3}, training={"rounds": 2}, **sections)
    for name, rows in (("apart", None), ("together", 6)):
        monkeypatch.setattr(simulated_run, "rows_together", lambda *_, rows=rows, **__: rows)
        found.append(last_adapter(simulate(asked, runs=place, name=name, workers=1).folder))
    return found


@pytest.mark.parametrize("kind", ["none", "masks"])
@pytest.mark.exhaustive(but=1)
def test_a_run_has_the_adapter_that_it_has_when_sites_train_apart(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    apart, together = runs(tiny_folder, tmp_path, monkeypatch, aggregation={"kind": kind})
    # Gradients differ by float32's rounding, and under masks by a step of the grid; the noise is the same,
    # and other noise would change the adapter by its whole size.
    np.testing.assert_allclose(together, apart, atol=1e-3 * np.abs(apart).max())


def test_where_training_together_fails_each_site_trains_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refused(*_: object, **__: object) -> None:
        tried.append(True)
        raise PolicyError("too long", rule="rules.longest_round")

    monkeypatch.setattr("client.training.together.train_together", refused)
    apart, together = runs(tiny_folder, tmp_path, monkeypatch)
    assert len(tried) == 2  # a round each
    assert np.array_equal(together, apart)


def rows(folder: Path, monkeypatch: pytest.MonkeyPatch, *, slower: float, sites: int = 3) -> int | None:
    """What is chosen where the batch that sites share takes so many times as long as one of each."""
    took = iter([1.0, slower])
    monkeypatch.setattr(cohort_grid, "seconds_a_batch", lambda *_, **__: next(took))
    world = World(job(folder))
    return rows_together(world.trainer, world.job, sites=sites)


def test_the_faster_way_is_chosen(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (rows(tiny_folder, monkeypatch, slower=1.0) or 0) > 2
    assert rows(tiny_folder, monkeypatch, slower=100.0) is None
    assert rows(tiny_folder, monkeypatch, slower=1.0, sites=1) is None


def test_together_is_for_fresh_noise_and_stacked_weights(tiny_folder: Path) -> None:
    keyed = World(job(tiny_folder, seeds={"noise": 3}))
    assert rows_together(keyed.trainer, keyed.job, sites=3) is None
    fresh = World(job(tiny_folder))
    assert rows_together(Trainer(HookedGradients(fresh.adapted)), fresh.job, sites=3) is None
