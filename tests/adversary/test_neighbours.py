"""Whatever a coordinator asks, a site answers the same with one example as with another in its place.

Each test runs a job twice, on data that differ in one row, with the same noise, and compares all that
leaves the site: kinds and words of replies, lengths, receipts, and what its ledger wrote. An update may
differ by what one example weighs, and by no more.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World
from tests import tiny
from tests.adversary.hostile_models import ask_texts
from tests.adversary.neighbours import (
    EXAMPLES,
    POISON,
    ROWS,
    Federation,
    Party,
    largest_move,
    moved,
    same_noise,
    write_rows,
)
from tests.client.agents import Coordinator

METRICS: dict[str, Any] = {"metrics": {"epsilon": 1.0}}
# What is asked beside that: a job's sections, changed from the tiny one.
JOBS: dict[str, dict[str, Any]] = {
    "laplace": {"privacy": {"mechanism": "laplace", "epsilon": 50.0}},
    "plain": {},
    "everybody is drawn": {"training": {"batch_size": ROWS, "physical_batch_size": ROWS}},
    "each alone": {"training": {"physical_batch_size": 1, "batch_size": 1}},
    "nobody is clipped": {"privacy": {"clipping_norm": 1e6}},
    "everybody is clipped": {"privacy": {"clipping_norm": 1e-6}},
    "steps far too long": {"training": {"learning_rate": 1e38}},
    "adam": {"training": {"optimizer": "adam", "learning_rate": 1e30}},
    "two tokens": {"data": {"max_length": 2}},
    "all positions": {"data": {"max_length": 16}},
    "bfloat16": {"device": {"precision": "bfloat16"}},
    "the largest numbers": {"compression": {"kind": "top-k", "share": 0.1}, "strategy": {"name": "ffa"}},
    "no noise where sites are hidden": {
        "privacy": {"unit": "site", "noise": "central"},
        "strategy": {"name": "ffa"},
    },
}
MASKED: dict[str, dict[str, Any]] = {
    "masks": {"aggregation": {"kind": "masks"}, "metrics": {"epsilon": 1.0}},
    "hidden sites": {
        "aggregation": {"kind": "masks"},
        "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 50.0},
    },
    "hidden sites, steps far too long": {
        "aggregation": {"kind": "masks"},
        "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 50.0},
        "training": {"learning_rate": 1e30},
    },
    # Nothing but the masks hides an update here: its being NaN, too.
    "masks without noise": {"aggregation": {"kind": "masks"}, "privacy": {"mechanism": "none"}},
    "whole sites without noise": {
        "aggregation": {"kind": "masks"},
        "privacy": {"unit": "site", "mechanism": "none"},
    },
    "some numbers without noise": {
        "aggregation": {"kind": "masks"},
        "privacy": {"mechanism": "none"},
        "compression": {"kind": "random", "share": 0.5},
        "strategy": {"name": "ffa"},
    },
}
# The adapter that a round starts from, if it is not the run's own.
ADAPTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "not a number": lambda adapter: np.full_like(adapter, np.nan),
    "infinite": lambda adapter: np.full_like(adapter, np.inf),
    "huge": lambda adapter: np.full_like(adapter, 1e30),
    "amplifying": lambda adapter: adapter + np.float32(1e4),
}
SOME = ("empty", "poison", "undecodable")


def poisoned(folder: Path, model: Path) -> Path:
    """A copy of a model that makes a text with one word NaN; probes do not hit on it among many others."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][5 + tiny.WORDS.index(POISON)] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Bench:
    """A coordinator, a model and a way to ask two sites the same."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.coordinator = Coordinator()
        self.monkeypatch = monkeypatch
        self.places = 0

    def job(self, model: Path, **changes: Any) -> Any:
        data = {"source": str(write_rows(self.folder / "all.csv", "plain")), "holdout": 0.5}
        sections = {"training": {"rounds": 2, "local_steps": 1, "batch_size": 8, "physical_batch_size": 8}}
        merged = {**changes, "data": {**data, **changes.get("data", {})}}
        merged["training"] = {**sections["training"], **changes.get("training", {})}
        return tiny.job(self.folder, model={"source": str(model), "pooling": "mean"}, **merged)

    def alone(
        self, world: World, manifest: Manifest, example: str, *, adapter: np.ndarray, models: dict[str, str]
    ) -> Party:
        """One site, asked to join, to train twice and for metrics."""
        self.places += 1
        home = self.folder / f"home-{self.places}"
        party = Party.start(
            home,
            name="north",
            data=write_rows(self.folder / f"data-{self.places}.csv", example),
            coordinator=self.coordinator,
            models=models,
            task=world.job.task,
        )
        digest, content = manifest.digest, to_bytes(adapter)
        with same_noise(self.monkeypatch):
            for request in (
                pb.Request(join=pb.Join(manifest=manifest.content)),
                pb.Request(train=pb.Train(manifest_digest=digest, round=1, adapter=content)),
                pb.Request(train=pb.Train(manifest_digest=digest, round=2, adapter=content)),
                pb.Request(train=pb.Train(manifest_digest=digest, round=3, adapter=content)),
                pb.Request(evaluate=pb.Evaluate(manifest_digest=digest, adapter=content)),
            ):
                party.answer(request.SerializeToString())
        return party

    def together(self, world: World, manifest: Manifest, example: str, *, models: dict[str, str]) -> Party:
        """Three sites in a sum under masks, all steps of it: the one whose data differ."""
        self.places += 1
        with same_noise(self.monkeypatch):
            sites = Federation(
                world,
                manifest,
                self.folder / f"homes-{self.places}",
                coordinator=self.coordinator,
                models=models,
                example=example,
            )
            roster = sites.roster()
            cohorts = sites.deal(roster)
            following = sites.roster(2)
            masked, _ = sites.train(cohorts, following=following)
            sites.uncover(roster, cohorts, masked)
        return sites.first


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("neighbours")
        tiny.write_model(folder / "model", fillers=3000)
        yield Bench(folder, monkeypatch)


@pytest.fixture(scope="module")
def poison(bench: Bench) -> Path:
    return poisoned(bench.folder / "poisoned", bench.folder / "model")


def check_alike(first: Party, second: Party, *, bound: float) -> None:
    assert first.seen == second.seen
    assert first.ledger() == second.ledger()
    # Noise is the same: what is left is the example.
    if math.isinf(bound):
        return
    apart, rounding = moved(first.updates, second.updates)
    assert apart <= bound + rounding


def kinds(party: Party) -> list[str]:
    return [reply["kind"] for reply in party.seen]


# Every example, where the model makes the worst of it.


@pytest.fixture(scope="module")
def baseline(bench: Bench, poison: Path) -> tuple[World, Party]:
    world = World(bench.job(poison, **METRICS))
    models = {str(poison): str(poison)}
    return world, bench.alone(
        world, world.manifest("run"), "plain", adapter=world.initial_adapter, models=models
    )


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("example", EXAMPLES)
def test_no_example_shows(bench: Bench, poison: Path, baseline: tuple[World, Party], example: str) -> None:
    world, plain = baseline
    assert kinds(plain) == ["joined", "trained", "trained", "refused", "evaluated"]
    found = bench.alone(
        world,
        world.manifest("run"),
        example,
        adapter=world.initial_adapter,
        models={str(poison): str(poison)},
    )
    check_alike(plain, found, bound=largest_move(world.job))


# Every job, and every adapter, with the examples that are most likely to make a difference.


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", JOBS)
def test_no_job_makes_an_example_show(bench: Bench, poison: Path, name: str) -> None:
    world = World(bench.job(poison, **JOBS[name]))
    manifest, models = world.manifest("run"), {str(poison): str(poison)}
    plain, *others = [
        bench.alone(world, manifest, example, adapter=world.initial_adapter, models=models)
        for example in ("plain", *SOME)
    ]
    assert kinds(plain)[0] == "joined"
    for other in others:
        check_alike(plain, other, bound=largest_move(world.job))


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", ADAPTERS)
def test_no_adapter_makes_an_example_show(bench: Bench, poison: Path, name: str) -> None:
    world = World(bench.job(poison, **METRICS))
    manifest, models = world.manifest("run"), {str(poison): str(poison)}
    adapter = ADAPTERS[name](world.initial_adapter).astype(np.float32)
    plain, *others = [
        bench.alone(world, manifest, example, adapter=adapter, models=models)
        for example in ("plain", *SOME)
    ]
    for other in others:
        assert plain.seen == other.seen
        assert plain.ledger() == other.ledger()
        if np.isfinite(adapter).all() and np.abs(adapter).max() < 1e6:
            check_alike(plain, other, bound=largest_move(world.job))


# Hostile models, named by nobody, and by a custodian who should not have.


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("named", [True, False])
def test_no_tokenizer_makes_an_example_show(bench: Bench, named: bool) -> None:
    place = bench.folder / f"asking-{named}"
    asking = ask_texts(place, bench.folder / "model", "good day")
    world = World(bench.job(asking, **METRICS))
    manifest = world.manifest("run")
    mine = str(bench.folder / "model")
    models = {str(asking): str(asking) if named else mine}
    plain, *others = [
        bench.alone(world, manifest, example, adapter=world.initial_adapter, models=models)
        for example in ("plain", "another", "empty")
    ]
    assert kinds(plain)[0] == ("joined" if named else "refused")
    for other in others:
        check_alike(plain, other, bound=largest_move(world.job))


# Sums: all their steps.


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MASKED)
def test_no_step_of_a_sum_shows_an_example(bench: Bench, poison: Path, name: str) -> None:
    world = World(bench.job(poison, **MASKED[name]))
    manifest, models = world.manifest("run"), {str(poison): str(poison)}
    plain, *others = [
        bench.together(world, manifest, example, models=models) for example in ("plain", "poison")
    ]
    assert kinds(plain) == ["joined", "dealing", "trained", "confirmed", "unmasked"]
    for other in others:
        assert plain.seen == other.seen
        assert plain.ledger() == other.ledger()
