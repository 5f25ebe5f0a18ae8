"""A model in memory keeps nothing of the run that it was loaded for.

A site first joins a job that hides examples, then, with the model still in memory, one under masks that
hides whole sites, whose local steps have no noise. If the first job's promise decided what is said of an
update that is not finite, a model that makes one word NaN would tell whether a text with it was drawn.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.messages import confide_pb2 as pb
from simulation.simulated_federation import World
from tests import tiny
from tests.adversary.neighbours import Federation, same_noise, write_rows
from tests.adversary.test_neighbours import Bench, poisoned

HIDDEN = {
    "aggregation": {"kind": "masks"},
    "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 50.0},
    "training": {"batch_size": 20, "physical_batch_size": 20},
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    tiny.write_model(tmp_path / "model", fillers=3000)
    return Bench(tmp_path, monkeypatch)


def a_round(bench: Bench, model: Path, homes: Path, example: str) -> list[str]:
    """What the first site answers to each step of a round that hides it, after a run that hid examples."""
    write_rows(bench.folder / "all.csv", "plain")
    models = {str(model): str(model)}
    before = World(bench.job(model)).manifest("before")
    world = World(bench.job(model, **HIDDEN))
    with same_noise(bench.monkeypatch):
        sites = Federation(
            world,
            world.manifest("run"),
            homes,
            coordinator=bench.coordinator,
            models=models,
            example=example,
            before=before,
        )
        first = sites.first
        roster = sites.roster()
        cohorts = sites.deal(roster)
        # One after the other, until a site says no.
        request = sites.train_request(cohorts[first.name])
        first.answer(pb.Request(train=request).SerializeToString())
    return [f"{reply['kind']} {reply.get('reason', '')}".strip() for reply in first.seen]


def test_an_update_that_is_not_finite_is_not_told_of(bench: Bench, tmp_path: Path) -> None:
    model = poisoned(tmp_path / "poisoned", tmp_path / "model")
    plain = a_round(bench, model, tmp_path / "plain", "plain")
    assert plain == ["joined", "joined", "dealing", "trained"]
    assert a_round(bench, model, tmp_path / "poison", "poison") == plain
