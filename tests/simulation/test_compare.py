"""Baselines beside a run: who trains alone, at what ε, and what goes on after a stop."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.compare import sites_alone
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny


class Killed(BaseException):
    pass


def test_compare_trains_the_baselines(tiny_folder: Path, tmp_path: Path) -> None:
    """Without privacy, and each site alone with the ε of the run: a comparison of equals."""
    job = tiny.job(
        tiny_folder,
        training={"rounds": 1, "local_steps": 1},
        federation={"partition": {"dirichlet": 0.5, "equal_sizes": True}},
    )
    run = simulate(job, runs=tmp_path, compare=True)
    plain = RunFolder.open(run.folder / "compare" / "without-privacy")
    assert plain.records()[0].epsilon == {"site-1": None, "site-2": None, "site-3": None}
    before = run.folder.joinpath("facts.json").read_bytes()
    for site, spent in run.epsilon.items():
        alone = RunFolder.open(run.folder / "compare" / "alone" / site)
        assert alone.records()[0].epsilon == pytest.approx({site: spent})
        audit_run(alone)
        assert alone.facts["measures_before"] == json.loads(before)["measures_before"]
    assert run.comparison is not None
    assert [one.site for one in run.comparison.alone] == ["site-1", "site-2", "site-3"]
    # What is told of the sites' labels is what they trained on: all rows but those that are held out.
    world, told = World(job), Counter(label for _, label, _ in tiny.rows())
    for one in run.comparison.alone:
        assert one.examples == sum(one.labels.values()) == world.sizes[one.site]
        told -= Counter(one.labels)
    assert [told["no"], told["yes"]] == np.bincount(world.held_out.labels).tolist()
    assert "site-3" in run.report.read_text()


def test_a_comparison_goes_on_where_it_was_stopped(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, create = tiny.job(tiny_folder, training={"rounds": 1}), World.create_folder

    def create_folder(self: World, path: Path, **keys: Any) -> RunFolder:
        if path.name == "site-2":
            raise Killed
        return create(self, path, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(World, "create_folder", create_folder)
        with pytest.raises(Killed):
            simulate(job, runs=tmp_path, name="run", compare=True)
    first = (tmp_path / "run" / "compare" / "alone" / "site-1" / "rounds.jsonl").read_bytes()
    run = resume(tmp_path / "run", compare=True)
    assert run.comparison is not None
    assert len(run.comparison.alone) == 3
    assert (run.folder / "compare" / "alone" / "site-1" / "rounds.jsonl").read_bytes() == first


def test_what_has_no_privacy_is_not_trained_without_it_again(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, training={"rounds": 1}, privacy={"mechanism": "none"})
    run = simulate(job, runs=tmp_path, compare=True)
    assert run.comparison is not None
    assert run.comparison.free is None
    assert [(row.title, row.epsilon) for row in run.comparison.rows[:2]] == [
        ("together", "none"),
        ("best site alone", "none"),
    ]


@pytest.mark.parametrize(
    ("federation", "chosen"),
    [
        ({"sites": 3}, ["site-1", "site-2", "site-3"]),
        ({"sites": 1}, []),
        # As many as a round has: of 190 and less, the largest and the smallest.
        ({"sites": 4, "cohort": 2, "partition": {"dirichlet": 1.0}}, None),
    ],
)
def test_sites_alone_take_no_more_training_than_a_run(
    tiny_folder: Path, federation: dict[str, Any], chosen: list[str] | None
) -> None:
    world = World(tiny.job(tiny_folder, federation=federation, seeds={"data": 1}))
    found = sites_alone(world)
    if chosen is None:
        sizes = sorted(world.sizes.values())
        assert sorted(world.sizes[name] for name in found) == [sizes[0], sizes[-1]]
    else:
        assert list(found) == chosen
