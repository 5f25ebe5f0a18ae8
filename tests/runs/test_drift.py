"""Drift: attributions find what a model goes by, and what moved from one adapter to another."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import confide
from privacy.errors import DataError, UserError
from protocol.job.job_file import parse_job
from protocol.job.strategy import State
from runs.attributions import attribute, name_of
from runs.drift import find_drift
from runs.run_folder import RunFolder
from simulation.simulated_federation import World
from tasks.data.examples import Batch
from tasks.task import Outcome
from tests import tiny
from tests.confide.test_cli import call
from tests.simulation.test_simulate import write_language_model
from tests.tasks.networks import IMAGES, TABULAR, job_table, write_images, write_table

HELD_OUT = tiny.rows(24, seed=9)


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_csv(tmp_path_factory.mktemp("held") / "held.csv", HELD_OUT)


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Runs whose adapters are drawn: two of one seed, one of another."""
    place, layout = tmp_path_factory.mktemp("runs"), world.adapted.layout
    found = {}
    for name, seed in (("march", 1), ("again", 1), ("april", 2)):
        folder = world.create_folder(place / name)
        adapter = 10 * world.adapted.some_adapter(seed)
        folder.save_state(1, layout, State(adapter=adapter))
        found[name] = RunFolder.open(folder.path)
    return found


def test_attributions_add_up_and_leave_special_tokens_out(world: World) -> None:
    examples, adapted = world.examples("site-1"), world.adapted
    some = examples.take(np.arange(5))
    found = attribute(adapted, 10 * adapted.some_adapter(1), some)
    special = set(adapted.base.reader.tokenizer.all_special_ids)
    assert [one.index for one in found] == [0, 1, 2, 3, 4]
    for one, size in zip(found, some.sizes, strict=True):
        assert len(one.parts) == size - 2  # without [CLS] and [SEP]
        assert not special & set(one.parts.tolist())
        assert one.shares.sum() == pytest.approx(1.0)
        assert one.gap < 0.05 * max(one.loss, 0.1)


def test_a_word_that_decides_has_most_of_the_share(world: World) -> None:
    """Where the likelihood is one word's embedding alone, that word has all of it, in whatever place."""
    adapted = world.adapted
    word = adapted.base.reader.tokenizer.convert_tokens_to_ids("good")

    whole = adapted.forward
    embed = adapted.peft.get_input_embeddings()

    def forward(batch: Batch) -> Outcome:
        tokens = batch.inputs["input_ids"]
        chosen = (tokens == word).unsqueeze(-1)
        return replace(whole(batch), losses=-(embed(tokens) * chosen).sum((1, 2)))

    examples = world.examples("site-1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapted, "forward", forward, raising=False)
        found = attribute(adapted, adapted.some_adapter(1), examples.take(np.arange(20)))
    having = [one for one in found if word in one.parts]
    assert having
    for one in having:
        assert one.shares[one.parts == word].sum() == pytest.approx(1.0)
    for one in (one for one in found if word not in one.parts):
        assert one.shares.sum() == 0.0


def test_a_language_model_is_attributed_to_as_well(tiny_folder: Path, tmp_path: Path) -> None:
    table = tiny.table(tiny_folder) | {"task": "causal-lm"}
    del table["data"]["label"], table["data"]["labels"]
    table["model"] = {"source": str(write_language_model(tmp_path))}
    table["adapter"]["target_modules"] = ["q_proj"]
    there = World(parse_job(table))
    examples = there.examples("site-1").take(np.arange(4))
    found = attribute(there.adapted, 10 * there.adapted.some_adapter(1), examples)
    for one in found:
        assert one.answer is None
        assert one.shares.sum() == pytest.approx(1.0)
        assert one.gap < 0.05 * one.loss


def test_columns_of_a_table_are_attributed_to(tmp_path: Path) -> None:
    """The label follows from two numbers, and an adapter that has seen nothing else is made up here."""
    table = job_table("tabular", write_table(tmp_path / "table.csv"), TABULAR)
    there = World(parse_job(table | {"aggregation": {"kind": "none"}}))
    found = attribute(
        there.adapted, there.adapted.some_adapter(1), there.examples("site-1").take(np.arange(6))
    )
    names = {name_of(there.adapted, int(part)) for one in found for part in one.parts}
    assert names == {"height", "home", "weight"}
    for one in found:
        assert one.shares.sum() == pytest.approx(1.0)
        assert one.gap < 1e-5


def test_shapley_values_of_a_table_are_each_columns_own(tmp_path: Path) -> None:
    """Where the likelihood is a sum of columns' numbers and of one product, halves of it go to either."""
    table = job_table("tabular", write_table(tmp_path / "table.csv"), TABULAR)
    there = World(parse_job(table | {"aggregation": {"kind": "none"}}))
    adapted, whole = there.adapted, there.adapted.forward
    height, home, weight = 0, 2, 6  # where their inputs begin

    def forward(batch: Batch) -> Outcome:
        values = batch.inputs["values"]
        told = values[:, height] + 3 * values[:, weight] + values[:, height] * values[:, weight]
        return replace(whole(batch), losses=-told)

    examples = there.examples("site-1").take(np.arange(6))
    values = examples.batch(np.arange(6)).inputs["values"].double().numpy()
    before = torch.random.get_rng_state()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapted, "forward", forward, raising=False)
        found = attribute(adapted, there.initial_adapter, examples)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert adapted.base.reader.columns[home] == "home"
    for one, row in zip(found, values, strict=True):
        x, y = row[height], row[weight]
        exact = np.abs([x + x * y / 2, 0.0, 3 * y + x * y / 2])
        # Of 32 orders about half have the height first, so that the product is about halved.
        assert one.shares == pytest.approx(exact / exact.sum(), abs=0.5 * abs(x * y) / exact.sum() + 1e-5)
        assert one.shares[1] == 0.0


def test_what_has_no_named_parts_is_refused(tmp_path: Path) -> None:
    table = job_table("image-classification", write_images(tmp_path / "images"), IMAGES)
    there = World(parse_job(table | {"aggregation": {"kind": "none"}}))
    with pytest.raises(UserError, match="expected runs on texts, tables or series, got task='image"):
        attribute(there.adapted, there.initial_adapter, there.examples("site-1").take(np.arange(2)))


def test_equal_adapters_have_no_drift(runs: dict[str, RunFolder], data: Path) -> None:
    drift = find_drift(runs["march"], runs["again"], data)
    assert (drift.examples, drift.changed) == (24, 0)
    assert drift.agreement == pytest.approx(1.0)
    assert {token.shift for token in drift.parts} == {0.0}
    assert {token.part for token in drift.parts} == {
        word for text, _, _ in HELD_OUT for word in text.split()
    }
    counted = {token.part: token.examples for token in drift.parts}
    assert counted["good"] == sum("good" in text.split() for text, _, _ in HELD_OUT)


def test_other_adapters_differ_and_what_moved_most_comes_first(
    runs: dict[str, RunFolder], data: Path
) -> None:
    drift = find_drift(runs["march"], runs["april"], data)
    back = find_drift(runs["april"], runs["march"], data)
    assert drift.agreement < 0.999
    moved = [abs(token.shift) * token.examples for token in drift.parts]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.05
    shifts = {token.part: token.shift for token in back.parts}
    assert all(shifts[token.part] == pytest.approx(-token.shift) for token in drift.parts)
    assert back.losses == tuple(reversed(drift.losses))


def test_runs_that_cannot_be_compared_are_refused(
    runs: dict[str, RunFolder], data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    tiny.table(other)
    tiny.write_model(other / "model", fillers=3)
    there = World(tiny.job(other)).create_folder(tmp_path / "run")
    with pytest.raises(UserError, match="expected two runs of the same base model, got"):
        find_drift(runs["march"], there, data)
    with pytest.raises(UserError, match="--data: expected a file with held-out examples"):
        find_drift(runs["march"], runs["april"], tmp_path / "none.csv")
    rows = [("", "yes", "town-1"), *HELD_OUT]
    with pytest.raises(DataError, match="row 1"):
        find_drift(runs["march"], runs["april"], tiny.write_csv(tmp_path / "blank.csv", rows))


def test_the_call_is_the_commands(runs: dict[str, RunFolder], data: Path) -> None:
    drift = confide.audit_drift(str(runs["march"].path), runs["april"].path, data)
    assert drift == find_drift(runs["march"], runs["april"], data)


def test_the_command(
    runs: dict[str, RunFolder],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folders = (runs["march"].path, runs["april"].path, "--data", data)
    assert call(monkeypatch, "audit", "drift", *folders) == 0
    told = capfd.readouterr().out
    assert told.startswith("march and april on 24 examples\n")
    assert max(map(len, told.splitlines())) <= 80
    assert call(monkeypatch, "audit", "drift", *folders, "--json") == 0
    table = json.loads(capfd.readouterr().out)
    assert (table["first"], table["second"], table["examples"]) == ("march", "april", 24)
    top = table["parts"][0]
    assert top["shift"] == pytest.approx(top["after"] - top["before"])


def test_without_captum_a_sentence_says_what_to_type(
    runs: dict[str, RunFolder],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("runs.attributions.find_spec", lambda _name: None)
    monkeypatch.delitem(sys.modules, "captum", raising=False)
    assert call(monkeypatch, "audit", "drift", runs["march"].path, runs["april"].path, "--data", data) == 2
    assert "takes Captum, which is not installed: pip install 'confide[drift]'" in capfd.readouterr().err
