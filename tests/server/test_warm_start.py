"""A run begins with an adapter that was made elsewhere, exactly, or is refused with what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from privacy.errors import JobError, ProtocolError
from protocol.job.strategy import State
from protocol.messages.vector import to_bytes, vector_digest
from runs.export import export_adapter
from runs.report.report import render_report
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import join, train

FFA = {"name": "ffa"}
QUERY = "base_model.model.bert.encoder.layer.1.attention.self.query"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `confide export` writes of an adapter of which no number is zero."""
    folder = tmp_path_factory.mktemp("exported")
    world = World(tiny.job(tiny_folder, strategy=FFA))
    run = world.create_folder(folder / "run")
    run.save_state(0, world.adapted.layout, State(adapter=world.adapted.some_adapter(3)))
    export_adapter(run, folder / "adapter")
    return folder / "adapter"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "adapter"))


def warm(tiny_folder: Path, place: Path, **changes: Any) -> World:
    training = changes.pop("training", {})
    sections = {"strategy": FFA, "training": {"warm_start": str(place), **training}, **changes}
    return World(tiny.job(tiny_folder, **sections))


# What does not fit.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter": {"rank": 4}}, r"made with r=2, and adapter\.rank makes it 4 here"),
        ({"adapter": {"alpha": 8.0}}, r"lora_alpha=4\.0, and adapter\.alpha makes it 8\.0 here"),
        ({"adapter": {"scaling": "rslora"}}, r"use_rslora=False, and adapter\.scaling makes it True"),
        ({"adapter": {"target_modules": ["query"]}}, r"it has .*value\.lora_A.*does not train"),
        (
            {"adapter": {"layers_to_transform": [0, 1]}},
            r"it lacks .*layer\.0.*adapter\.target_modules asks",
        ),
    ],
)
def test_an_adapter_of_another_job_is_refused(
    tiny_folder: Path, exported: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(JobError, match=reason):
        warm(tiny_folder, exported, **changes)


def test_a_head_of_another_shape_is_refused(tiny_folder: Path, copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    (head,) = (name for name in tensors if name.endswith("classifier.weight"))
    save_file(tensors | {head: np.zeros((3, 16), np.float32)}, copied / WEIGHTS)
    with pytest.raises(JobError, match=r"has shape \(3, 16\) there and \(2, 16\) in this job"):
        warm(tiny_folder, copied)


def test_numbers_that_are_not_finite_are_refused(tiny_folder: Path, copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    tensors[f"{QUERY}.lora_B.weight"][0, 0] = np.nan
    save_file(tensors, copied / WEIGHTS)
    with pytest.raises(JobError, match=r"lora_B\.weight is not finite"):
        warm(tiny_folder, copied)


@pytest.mark.parametrize("value", [{"peft_type": "LOHA"}, {"use_dora": True}])
def test_what_is_no_plain_lora_is_refused(tiny_folder: Path, copied: Path, value: dict[str, Any]) -> None:
    config = json.loads((copied / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps(config | value))
    with pytest.raises(JobError, match="no plain LoRA"):
        warm(tiny_folder, copied)


def test_a_frozen_weight_is_taken_only_as_the_base_model_has_it(tiny_folder: Path, copied: Path) -> None:
    world = World(tiny.job(tiny_folder))
    name = "bert.encoder.layer.0.attention.self.query.weight"
    weight = world.adapted.peft.get_base_model().state_dict()[name].numpy()
    tensors = load_file(copied / WEIGHTS)
    save_file(tensors | {f"base_model.model.{name}": weight}, copied / WEIGHTS)
    warm(tiny_folder, copied)
    save_file(tensors | {f"base_model.model.{name}": weight + 1}, copied / WEIGHTS)
    with pytest.raises(JobError, match="not as the base model has it"):
        warm(tiny_folder, copied)


@pytest.mark.parametrize("lost", [WEIGHTS, CONFIG])
def test_a_folder_that_is_none_is_refused(tiny_folder: Path, copied: Path, lost: str) -> None:
    (copied / lost).unlink()
    with pytest.raises(JobError, match=f"its {lost} cannot be read"):
        warm(tiny_folder, copied)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"adapter": {"init": "pissa"}}, "adapter.init"),
        ({"adapter": {"target_modules": ["query", "experts"]}}, "adapter.target_modules"),
        ({"strategy": {"name": "fedsb"}}, "strategy.name"),
        ({"strategy": {"name": "flexlora"}, "adapter": {"ranks": [1, 2, 2]}}, "adapter.ranks"),
    ],
)
def test_a_job_that_begins_otherwise_is_refused_when_it_is_read(
    tiny_folder: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(JobError, match=key):
        tiny.job(tiny_folder, training={"warm_start": "anywhere"}, **changes)


def test_no_manifest_has_a_first_adapters_digest_without_one(tiny_folder: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ProtocolError, match=r"training\.warm_start"):
        replace(World(tiny.job(tiny_folder)).manifest("run"), start_digest="ab" * 32)


# What fits.


def test_the_run_begins_with_the_very_adapter(tiny_folder: Path, exported: Path, tmp_path: Path) -> None:
    world = warm(tiny_folder, exported)
    expected = world.adapted.some_adapter(3)
    np.testing.assert_array_equal(world.initial_adapter, expected)
    run = world.create_folder(tmp_path / "run")
    np.testing.assert_array_equal(run.load_adapter(0, world.adapted.layout), expected)
    assert world.manifest("run").start_digest == vector_digest(to_bytes(expected))
    report = render_report(run)
    assert str(exported) in report
    assert vector_digest(to_bytes(expected))[:16] in report


def test_a_head_that_is_not_there_begins_as_it_would(tiny_folder: Path, copied: Path) -> None:
    tensors = {name: t for name, t in load_file(copied / WEIGHTS).items() if ".lora_" in name}
    save_file(tensors, copied / WEIGHTS)
    world = warm(tiny_folder, copied)
    found = world.adapted.layout.split(world.initial_adapter)
    for name, tensor in found.items():
        assert np.array_equal(tensor, tensors[name] if name in tensors else np.zeros_like(tensor)), name


def test_a_site_refuses_a_first_round_from_another_adapter(
    tiny_folder: Path, exported: Path, tmp_path: Path
) -> None:
    world = warm(tiny_folder, exported)
    manifest, site = world.manifest("run"), world.site("site-1", home=tmp_path)
    join(site, manifest)
    other = to_bytes(world.initial_adapter + np.float32(1))
    refused = train(site, manifest, world, adapter=other).refused
    assert "not the one whose digest the manifest has" in refused.reason
    assert train(site, manifest, world).trained.update
    # A later round begins with whatever the round before it made.
    assert train(site, manifest, world, 2, adapter=other).trained.update
