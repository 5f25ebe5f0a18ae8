"""Runs whose sites hold adapters of their own ranks, and runs that move a part into the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privacy.errors import ModelError, ProtocolError
from protocol.job.layout import RESIDUAL
from protocol.job.ranks import layout_at
from runs.run_folder import RunFolder
from server.sums.ranked_sums import RankedSums
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

SHORT = {"training": {"rounds": 2, "local_steps": 1}, "seeds": {"noise": 7}}


def tensors(folder: Path, number: int) -> dict[str, np.ndarray]:
    return load_file(folder / "rounds" / f"{number:03d}" / "adapter_model.safetensors")


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("strategy", ["flora", "flexlora"])
def test_each_site_sends_as_much_as_its_rank_takes(
    strategy: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sites of ranks 1, 2 and, by default, the run's 3."""
    came: dict[str, set[int]] = {}
    read = RankedSums._read

    def watched(self: RankedSums, site: str, update: bytes) -> np.ndarray:
        came.setdefault(site, set()).add(len(update) // 4)
        return read(self, site, update)

    monkeypatch.setattr(RankedSums, "_read", watched)
    adapter = {"rank": 3, "ranks": {"site-1": 1, "site-2": 2}}
    job = tiny.job(tiny_folder, adapter=adapter, strategy={"name": strategy}, **SHORT)
    run = simulate(job, runs=tmp_path)
    layout = World(job).adapted.layout
    expected = {f"site-{rank}": {layout_at(layout, rank).update_size} for rank in (1, 2, 3)}
    assert came == expected
    assert len({min(sizes) for sizes in expected.values()}) == 3
    assert layout.split(RunFolder.open(run.folder).newest_adapter(layout))


def test_ranks_that_are_all_the_runs_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    found = []
    for name, ranks in (("with", [2, 2, 2]), ("without", None)):
        adapter: dict[str, Any] = {} if ranks is None else {"ranks": ranks}
        job = tiny.job(tiny_folder, adapter=adapter, strategy={"name": "flora"}, **SHORT)
        found.append(tensors(simulate(job, runs=tmp_path, name=name).folder, 2))
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        # One is widened from the site's own layout by subtraction and the other not: the same numbers.
        assert np.array_equal(tensor, found[1][name]), name


def test_a_run_moves_its_product_into_the_base_round_by_round(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, strategy={"name": "flora"}, **SHORT), runs=tmp_path)
    rounds = [tensors(run.folder, number) for number in range(3)]
    names = [name for name in rounds[0] if name.endswith(RESIDUAL)]
    assert names
    for name in names:
        factor = name.replace(RESIDUAL, ".lora_B.weight")
        assert not rounds[0][name].any()
        assert rounds[1][name].any()
        assert not np.array_equal(rounds[1][name], rounds[2][name])
        assert not rounds[2][factor].any()


def test_a_model_has_what_it_was_given_and_at_rest_what_it_was_loaded_with(tiny_folder: Path) -> None:
    adapted = World(tiny.job(tiny_folder, strategy={"name": "fedex"})).adapted
    names = [name for name in adapted.layout.split(adapted.initial_adapter(0)) if name.endswith(RESIDUAL)]
    layers = {
        name: adapted.peft.get_submodule(name.removesuffix(RESIDUAL)).get_base_layer() for name in names
    }
    loaded = {name: layer.weight.detach().numpy().copy() for name, layer in layers.items()}
    generator = np.random.default_rng(0)
    for _ in range(3):
        adapter = generator.standard_normal(adapted.layout.adapter_size).astype(np.float32)
        adapted.load(adapter)
        given = adapted.layout.split(adapter)
        scale = adapted.spec.adapter.alpha / adapted.spec.adapter.rank
        for name, layer in layers.items():
            expected = loaded[name] + np.float32(scale) * given[name]
            assert np.array_equal(layer.weight.detach().numpy(), expected)
        with adapted.at_rest():
            for name, layer in layers.items():
                assert np.array_equal(layer.weight.detach().numpy(), loaded[name])
        for name, layer in layers.items():
            assert not np.array_equal(layer.weight.detach().numpy(), loaded[name])
    assert not adapted.update_since(adapter).any()
    adapted.load(adapted.initial_adapter(0))
    for name, layer in layers.items():
        assert np.array_equal(layer.weight.detach().numpy(), loaded[name])


@pytest.mark.parametrize("size", [-4, 4])
def test_an_update_of_another_rank_is_refused(size: int, tiny_folder: Path) -> None:
    job = tiny.job(tiny_folder, adapter={"rank": 3, "ranks": [1, 2, 3]}, strategy={"name": "flora"})
    world = World(job)
    layout = world.adapted.layout
    sums = RankedSums(world.manifest("r"), layout=layout, take_number=lambda: 1, ask=None)  # type: ignore[arg-type]
    right = 4 * layout_at(layout, 2).update_size
    assert sums._read("site-2", bytes(right)).shape == (layout.update_size,)
    with pytest.raises(ProtocolError):
        sums._read("site-2", bytes(right + size))


@pytest.mark.parametrize(
    ("changes", "key"), [({"rank": 17}, "rank"), ({"rank_pattern": {"query": 17}}, "rank_pattern")]
)
def test_a_rank_beyond_a_layer_is_told_by_the_key_that_says_it(
    tiny_folder: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ModelError, match=rf"^adapter\.{key}: expected at most 16, .*query, got 17"):
        World(tiny.job(tiny_folder, adapter=changes))
