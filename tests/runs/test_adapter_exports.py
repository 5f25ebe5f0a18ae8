"""Runs under masks with each kind of adapter: what is exported loads with stock PEFT onto the same base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.runs.test_export import TEXT, logits

NOISELESS = {"privacy": {"mechanism": "none"}, "training": {"rounds": 2, "learning_rate": 4.0}}
MASKS = {"aggregation": {"kind": "masks"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "a core": {"strategy": {"name": "fedsb"}, "adapter": {"rank": 3, "alpha": 9.0}},
    "pissa, turned": {
        "adapter": {
            "init": "pissa",
            "scaling": "rslora",
            "rank_pattern": {"value": 3},
            "alpha_pattern": {"query": 2.0},
        }
    },
    "olora, both halves": {"strategy": {"name": "lora"}, "adapter": {"init": "olora"}},
    "patterns, frozen A": {
        "strategy": {"name": "ffa"},
        "adapter": {
            "scaling": "rslora",
            "rank_pattern": {"value": 3},
            "alpha_pattern": {"1.attention.self.query": 9.0},
        },
    },
    "biases": {"adapter": {"bias": "all", "layers_to_transform": None}},
    "biases of adapted layers": {"adapter": {"bias": "lora_only"}},
}


def trained_logits(folder: RunFolder) -> tuple[World, torch.Tensor, torch.Tensor]:
    """The logits of the run's own model, before and after its rounds."""
    world = World(folder.manifest.job)
    found = []
    for number in (0, len(folder.records())):
        world.adapted.load(folder.load_adapter(number, world.adapted.layout))
        world.adapted.peft.eval()
        with torch.no_grad():
            tokens = world.adapted.base.reader.tokenizer(TEXT, return_tensors="pt")
            found.append(world.adapted.peft(**tokens).logits)
    return world, *found


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", VARIANTS)
def test_both_exports_compute_what_the_run_does(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    job = tiny.job(tiny_folder, **MASKS, **NOISELESS, **VARIANTS[name])
    folder = RunFolder.open(simulate(job, runs=tmp_path / "runs").folder)
    world, before, expected = trained_logits(folder)
    assert (expected - before).abs().max() > 1e-2
    export_adapter(folder, tmp_path / "adapter")
    export_merged(folder, tmp_path / "merged")
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "privacy-card.json",
    ]
    base = AutoModelForTokenClassification.from_pretrained(tiny_folder / "model", num_labels=2)
    adapter = PeftModel.from_pretrained(base, tmp_path / "adapter")
    # Sums of at most 32 products of float32 numbers, in another order, through two layers.
    torch.testing.assert_close(logits(adapter, tiny_folder / "model"), expected, atol=1e-5, rtol=1e-5)
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, tmp_path / "merged"), expected, atol=1e-5, rtol=1e-5)
    # What goes on from a round is what was trained, to the last bit.
    last = folder.path / "rounds" / f"{len(folder.records()):03d}"
    kept = last / "trained.safetensors"
    assert kept.exists() == (name in ("a core", "pissa, turned", "olora, both halves"))
    if kept.exists():
        tensors = {slot.name: slot.shape for slot in world.adapted.layout.slots}
        assert {key: tensor.shape for key, tensor in load_file(kept).items()} == tensors
    if name == "a core":
        start = world.adapted.layout.split(folder.load_adapter(0, world.adapted.layout))
        end = world.adapted.layout.split(folder.load_adapter(2, world.adapted.layout))
        for slot in world.adapted.layout.slots:
            assert np.array_equal(start[slot.name], end[slot.name]) != slot.trained, slot.name


def test_noise_is_added_to_cores_and_head_alone(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, **MASKS, **VARIANTS["a core"])
    run = simulate(job, runs=tmp_path / "runs")
    folder = RunFolder.open(run.folder)
    # Two layers' cores of 3 x 3, and a head of 2 x 16 + 2.
    assert folder.facts["trained_parameters"] == 2 * 9 + 34
    assert all(value is not None and value <= 8.0 for value in run.epsilon.values())
