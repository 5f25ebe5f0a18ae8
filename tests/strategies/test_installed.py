"""Strategies of another package, from their entry points through whole runs; no file of ours names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import JobError
from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, find_strategy, listed_strategies, strategy_names
from runs.run import Run
from runs.run_folder import RoundRecord, RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from strategies.fedsvd import FedSVD
from tests import tiny
from tests.strategies.installing import install
from tests.strategies.middle import Middle
from tests.strategies.momentum import Momentum


def test_one_is_found_by_its_name_with_its_own_keys(tiny_folder: Path, installed: None) -> None:
    job = tiny.job(tiny_folder, strategy={"name": "momentum", "momentum": 0.5})
    assert job.strategy == Momentum(momentum=0.5)
    assert job.model_dump(mode="json")["strategy"] == {
        "name": "momentum",
        "keep_local": "nothing",
        "momentum": 0.5,
        "server": None,
    }
    assert "momentum" in strategy_names()


def test_its_keys_are_checked_like_ours(tiny_folder: Path, installed: None) -> None:
    with pytest.raises(JobError, match=r"strategy\.momentum: expected .*less than 1, got 1\.5"):
        tiny.job(tiny_folder, strategy={"name": "momentum", "momentum": 1.5})
    with pytest.raises(JobError, match=r"strategy\.momentun: unknown key"):
        tiny.job(tiny_folder, strategy={"name": "momentum", "momentun": 0.5})


@pytest.mark.parametrize(
    "name", ["momentum", "os", "strategies.fedsvd", "fedsvd:refactor", "FedSVD", "", 3, ["ffa"], None]
)
def test_what_is_neither_listed_nor_installed_is_not_imported(tiny_folder: Path, name: object) -> None:
    expected = ", ".join(listed_strategies())
    with pytest.raises(JobError, match=rf"strategy\.name: expected one of {expected}, got "):
        tiny.job(tiny_folder, strategy={"name": name})


def test_an_installed_one_does_not_take_the_place_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "fedsvd", "tests.strategies.momentum:Momentum")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_strategy("fedsvd") is FedSVD


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"kind": "masks"}},
        {"aggregation": {"kind": "homomorphic"}},
        {"privacy": {"unit": "site", "noise": "central", "epsilon": 50.0}},
    ],
)
def test_one_that_reads_each_update_is_refused_where_only_a_sum_is_read(
    tiny_folder: Path, installed: None, changes: dict[str, Any]
) -> None:
    with pytest.raises(JobError, match=r'strategy\.name: "middle" needs each site\'s update'):
        tiny.job(tiny_folder, strategy={"name": "middle"}, **changes)


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> AdapterLayout:
    """That of strategies which train B and the head."""
    return World(tiny.job(tiny_folder, strategy={"name": "ffa"})).adapted.layout


def run_job(folder: Path, runs: Path, name: str, **changes: Any) -> Run:
    return simulate(tiny.job(folder, **{"seeds": {"noise": 5}, **changes}), runs=runs, name=name)


def adapter(run: Run, number: int, layout: AdapterLayout) -> np.ndarray:
    return RunFolder.open(run.folder).load_adapter(number, layout)


@pytest.mark.parametrize("kind", ["none", "masks"])
@pytest.mark.exhaustive(but=1)
def test_a_stopped_run_remembers(
    tiny_folder: Path,
    tmp_path: Path,
    layout: AdapterLayout,
    installed: None,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Its velocity is there again: the run ends as one that nothing stopped."""
    changes = {"strategy": {"name": "momentum"}, "aggregation": {"kind": kind}}
    whole = run_job(tiny_folder, tmp_path, "whole", **changes)
    finish = RunFolder.finish_round

    def finish_round(self: RunFolder, record: RoundRecord, *rest: Any) -> None:
        if record.round == 3:
            raise KeyboardInterrupt
        finish(self, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", finish_round)
        with pytest.raises(KeyboardInterrupt):
            run_job(tiny_folder, tmp_path, "stopped", **changes)
    stopped = resume(tmp_path / "stopped")
    assert adapter(stopped, 3, layout).tobytes() == adapter(whole, 3, layout).tobytes()


def test_momentum_moves_the_second_round_as_the_first_did(
    tiny_folder: Path, tmp_path: Path, layout: AdapterLayout, installed: None
) -> None:
    """Without it the same run would be FFA's."""
    moved, plain = (
        run_job(tiny_folder, tmp_path, strategy["name"], strategy=strategy, training={"rounds": 2})
        for strategy in ({"name": "momentum", "momentum": 0.5}, {"name": "ffa"})
    )
    start, first, second = (adapter(moved, number, layout) for number in range(3))
    assert first.tobytes() == adapter(plain, 1, layout).tobytes()
    # Both are trained from the same adapter with the same noise, so that their second means are equal.
    expected = adapter(plain, 2, layout) + np.float32(0.5) * (first - start)
    # Three additions of float32 below 4.
    np.testing.assert_allclose(second, expected, rtol=0, atol=3 * 4 * 2.0**-23)


def test_one_that_is_not_linear_gets_each_update(
    tiny_folder: Path, tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of three sites, in a row each; their mean is what a strategy that trains the same gets."""
    given: list[np.ndarray] = []
    merge = Middle.merge

    def watched(self: Middle, state: State, aggregate: np.ndarray, *rest: Any) -> State:
        given.append(aggregate)
        return merge(self, state, aggregate, *rest)

    monkeypatch.setattr(Middle, "merge", watched)
    layout = World(tiny.job(tiny_folder, strategy={"name": "lora"})).adapted.layout
    once = {"training": {"rounds": 1}}
    middle_run = run_job(tiny_folder, tmp_path, "middle", strategy={"name": "middle"}, **once)
    mean = run_job(tiny_folder, tmp_path, "mean", strategy={"name": "lora"}, **once)
    (updates,) = given
    assert updates.shape == (3, layout.update_size)
    start = adapter(middle_run, 0, layout)
    averaged = layout.apply(start, updates.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert adapter(mean, 1, layout).tobytes() == averaged.tobytes()
    middle = layout.apply(start, np.median(updates, axis=0).astype(np.float32))
    assert adapter(middle_run, 1, layout).tobytes() == middle.tobytes()
    assert middle.tobytes() != averaged.tobytes()
