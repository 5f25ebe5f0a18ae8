"""Whole runs of each rule: a sum under masks gives what the coordinator would have added up itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.job.job import Job
from protocol.job.strategy import find_strategy, listed_strategies
from runs.run import Run
from runs.run_audit import audit_run
from runs.run_folder import RoundRecord, RunFolder
from simulation.forecast.forecast import forecast
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny

LINEAR = [name for name in listed_strategies() if find_strategy(name).linear]
TWO: dict[str, Any] = {"training": {"rounds": 2, "learning_rate": 0.5}, "seeds": {"noise": 5}}


def job(folder: Path, strategy: dict[str, Any], **changes: Any) -> Job:
    return tiny.job(folder, strategy=strategy, **{**TWO, **changes})


def adapter(run: Run, number: int) -> dict[str, np.ndarray]:
    folder = RunFolder.open(run.folder)
    layout = World(folder.manifest.job).adapted.layout
    return layout.split(folder.load_adapter(number, layout))


def meaning(run: Run, number: int) -> dict[str, np.ndarray]:
    """What a model makes of an adapter, by layer: the head, and the product of each pair."""
    tensors = adapter(run, number)
    return {
        name: tensor @ tensors[name.replace(".lora_B.", ".lora_A.")] if ".lora_B." in name else tensor
        for name, tensor in tensors.items()
        if ".lora_A." not in name
    }


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", ["rolora", *(name for name in LINEAR if name != "rolora")])
def test_masks_give_what_adding_up_gives(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    masked, plain = (
        simulate(job(tiny_folder, {"name": name}, aggregation={"kind": kind}), runs=tmp_path, name=kind)
        for kind in ("masks", "none")
    )
    start, found, expected = meaning(plain, 0), meaning(masked, 2), meaning(plain, 2)
    for part in expected:
        moved = np.abs(expected[part] - start[part]).max()
        # The noise is keyed and the same. A sum's grid has 2^32 steps for all that updates may be, of which
        # these are a small part; another adapter starts the second round, whose examples round otherwise.
        np.testing.assert_allclose(found[part], expected[part], atol=1e-3 * max(moved, 1e-2))
    audit_run(RunFolder.open(masked.folder))


def test_each_round_of_rolora_moves_its_half(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(job(tiny_folder, {"name": "rolora"}), runs=tmp_path)
    states = [adapter(run, number) for number in range(3)]
    for number, half in ((1, ".lora_B."), (2, ".lora_A.")):
        moved = {name for name, old in states[number - 1].items() if (old != states[number][name]).any()}
        assert moved == {name for name in states[0] if half in name or ".lora_" not in name}


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", ["fedadam"])
def test_a_stopped_run_of_halves_in_turn_under_a_server_optimizer_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Which half a round trains follows from its number, and the moments are there again."""
    asked = {"name": "rolora", "server": {"optimizer": optimizer, "learning_rate": 0.01}}
    three = {"training": {"rounds": 3, "learning_rate": 0.5, "local_steps": 1}}
    whole = simulate(job(tiny_folder, asked, **three), runs=tmp_path, name="whole")
    finish = RunFolder.finish_round

    def finish_round(self: RunFolder, record: RoundRecord, *rest: Any) -> None:
        if record.round == 3:
            raise KeyboardInterrupt
        finish(self, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", finish_round)
        with pytest.raises(KeyboardInterrupt):
            simulate(job(tiny_folder, asked, **three), runs=tmp_path, name="stopped")
    stopped = resume(tmp_path / "stopped")
    expected = adapter(whole, 3)
    assert all(np.array_equal(found, expected[name]) for name, found in adapter(stopped, 3).items())


@pytest.mark.parametrize("name", ["rolora", "head"])
def test_a_forecast_counts_what_a_round_trains(tiny_folder: Path, name: str) -> None:
    found = forecast(job(tiny_folder, {"name": name}))
    # Two layers' queries and values of 16 by 16 at rank 2, and a head of 2 by 16 with its bias.
    assert found.parameters == 34 + (2 * 2 * 16 if name == "rolora" else 0)
    assert found.traffic.up < 3 * 4 * found.parameters + 2_000


def test_the_head_alone_leaves_pairs_as_they_were_drawn(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(job(tiny_folder, {"name": "head"}), runs=tmp_path)
    before, after = adapter(run, 0), adapter(run, 2)
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved == {name for name in before if ".lora_" not in name}
    assert not any(tensor.any() for name, tensor in after.items() if ".lora_B." in name)
