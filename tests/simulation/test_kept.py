"""What is kept of many sites: what fits stays, in whatever order it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runs.progress import Progress
from runs.run_folder import RoundRecord, RunFolder
from simulation import simulated_federation, simulated_run
from simulation.kept import Kept
from simulation.simulate import simulate
from simulation.simulated_federation import World
from simulation.sites_on_demand import SitesOnDemand, sites_of_run
from tasks.own_rows import encode_own_rows
from tests import tiny


def test_a_round_finds_the_share_that_fits() -> None:
    """Of ten values of 10 bytes, asked for one after another again and again, 45 bytes hold four."""
    kept, made = Kept[int, str](45), []

    def get(key: int) -> str:
        def make() -> str:
            made.append(key)
            return f"value {key}"

        return kept.get(key, make, size=lambda _: 10)

    for _ in range(3):
        assert [get(key) for key in range(10)] == [f"value {key}" for key in range(10)]
    assert made == [*range(10), *range(4, 10), *range(4, 10)]
    assert kept.get(99, lambda: "small", size=lambda _: 5) == "small"
    assert kept.get(99, lambda: "made again", size=lambda _: 5) == "small"
    assert kept.get(100, lambda: "large", size=lambda _: 1) == "large"
    assert kept.get(100, lambda: "made again", size=lambda _: 1) == "made again"


def test_examples_know_what_they_take(tiny_folder: Path) -> None:
    examples = World(tiny.job(tiny_folder)).examples("site-1")
    tokens, count = int(examples.sizes.sum()), len(examples)
    assert examples.nbytes == 4 * tokens + 8 * (count + 1) + 8 * count


def test_sites_that_come_and_go_are_tokenized_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site is kept at a time: each round makes all that are drawn again."""
    job = tiny.job(
        tiny_folder, federation={"sites": 6, "cohort": 3}, seeds={"noise": 3}, training={"rounds": 3}
    )
    made, encoded, computed = [], [], []
    keep_all, make_site, fill = SitesOnDemand.__init__, World.site_of_run, simulated_federation.Activations

    def keep_one(self: SitesOnDemand, *args: object, most: int | None) -> None:
        assert most is not None
        keep_all(self, *args, most=1)

    def site_of_run(self: World, name: str, *args: object, **options: object) -> object:
        made.append(name)
        return make_site(self, name, *args, **options)

    def encode(adapted: object, table: object, rows: np.ndarray, **options: object) -> object:
        encoded.append(tuple(rows))
        return encode_own_rows(adapted, table, rows, **options)

    def activations(*args: object) -> object:
        computed.append(args)
        return fill(*args)

    monkeypatch.setattr(SitesOnDemand, "__init__", keep_one)
    monkeypatch.setattr(World, "site_of_run", site_of_run)
    monkeypatch.setattr(simulated_federation, "encode_own_rows", encode)
    monkeypatch.setattr(simulated_federation, "Activations", activations)
    simulate(job, runs=tmp_path, name="run")
    assert len(made) > len(set(made))
    assert len(encoded) == len(set(encoded)) == len(set(made)) + 1  # and the held-out ones
    assert len(computed) == len(set(made))


def test_sites_whose_round_is_over_are_forgotten(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the coordinator forgets them: a round has its own sites and those of the next two, who join."""
    job = tiny.job(
        tiny_folder, federation={"sites": 12, "cohort": 2}, seeds={"noise": 3}, training={"rounds": 4}
    )
    made: list[SitesOnDemand] = []
    held: list[set[str]] = []

    def remember(world: World, folder: RunFolder) -> SitesOnDemand:
        made.append(sites_of_run(world, folder))
        return made[-1]

    class Watch(Progress):
        def round(self, record: RoundRecord) -> None:
            held.append(set(made[0]._made))

    monkeypatch.setattr(simulated_run, "sites_of_run", remember)
    run = simulate(job, runs=tmp_path, name="run", workers=1, progress=Watch())
    drawn = RunFolder.open(run.folder).manifest.drawn
    assert held == [drawn(number) | drawn(number + 1) | drawn(number + 2) for number in range(1, 5)]
    assert drawn(1) & (drawn(3) | drawn(4)) == set()
    assert set(made[0]._made) == drawn(4)
