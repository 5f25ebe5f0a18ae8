"""Kept activations change the time that training takes, and nothing else."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.gradients import HookedGradients
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import RunError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import TrainingSection
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes, ladder
from tasks.model import activation_store
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, Case, adapt, bert, make_job, random_adapter

TOP = {"adapter": {"layers_to_transform": [2]}}
LAYERS = 3
LENGTHS = (3, 9, 5, 7, 4, 6)
LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]

# Kept activations are the very numbers of the first pass; only the width of the padding around
# them differs, which moves float32 sums of some dozens of terms by a few 2^-24.
ROUNDING = 1e-5


def prepared(case: Case, **sections: Any) -> AdaptedModel:
    adapted = case.adapted(layers=LAYERS, **{**TOP, **sections})
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    return adapted


def kept(adapted: AdaptedModel, examples: Examples, *, folder: Path | None = None) -> Activations:
    return Activations(FrozenPrefix(adapted), examples, folder=folder)


def losses(
    adapted: AdaptedModel, examples: Examples, activations: Activations | None, *, size: int = 6
) -> NDArray[np.float32]:
    """The loss of every example, in batches of ``size``."""
    found = np.zeros(len(examples), np.float32)
    with torch.no_grad():
        for batch in examples.batches(np.arange(len(examples)), rows=size):
            if activations is None:
                found[batch.indices] = adapted.forward(batch).losses
            else:
                with activations.replay(batch) as known:
                    found[batch.indices] = adapted.forward(known).losses
    return found


def train(
    adapted: AdaptedModel, examples: Examples, activations: Activations | None
) -> NDArray[np.float32]:
    plan = SampledPlan(
        mechanism=Mechanism(name="gaussian", multiplier=1.0),
        clipping_norm=1.0,
        sampling_rate=0.5,
        steps=4,
        delta=1e-5,
    )
    return Trainer(HookedGradients(adapted)).train(
        random_adapter(adapted),
        examples,
        training=TrainingSection(
            rounds=1, local_steps=4, batch_size=3, physical_batch_size=2, learning_rate=0.1
        ),
        plan=plan,
        round_number=1,
        entropy=keyed_entropy(0, "site"),
        activations=activations,
    )


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every store is too large for memory; the list holds the files that were mapped."""
    mapped = []
    map_file = torch.from_file

    def noted(name: str, **kwargs: Any) -> torch.Tensor:
        mapped.append(name)
        return map_file(name, **kwargs)

    monkeypatch.setattr(activation_store, "MEMORY_LIMIT_BYTES", 0)
    monkeypatch.setattr(torch, "from_file", noted)
    return mapped


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_losses_are_the_same(case: Case) -> None:
    adapted, examples = prepared(case), case.examples(LENGTHS)
    activations = kept(adapted, examples)
    assert activations.work

    plain = losses(adapted, examples, None)
    first = losses(adapted, examples, activations, size=2)
    again = losses(adapted, examples, activations, size=6)

    np.testing.assert_allclose(first, plain, rtol=ROUNDING)
    np.testing.assert_allclose(again, plain, rtol=ROUNDING)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.exhaustive(but=3)
def test_the_update_is_the_same(case: Case, dropout: float) -> None:
    job = {"adapter": {"layers_to_transform": [2], "dropout": dropout}, "privacy": {"mechanism": "none"}}
    examples = case.examples(LENGTHS)
    plain = train(prepared(case, **job), examples, None)
    adapted = prepared(case, **job)

    found = train(adapted, examples, kept(adapted, examples))

    # Updates of numbers near 1, in four steps of 0.1 times a clipped gradient.
    np.testing.assert_allclose(found, plain, atol=ROUNDING)
    assert np.abs(plain).max() > 0.01


def test_frozen_layers_run_once_an_example() -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples)
    runs = []
    lowest = adapted.peft.get_submodule("base_model.model.model.layers.0")
    lowest.register_forward_hook(lambda *_: runs.append(1))

    losses(adapted, examples, activations, size=2)
    assert len(runs) == 3
    losses(adapted, examples, activations, size=6)
    assert len(runs) == 3


def test_the_model_is_whole_again_after_a_replay_that_failed() -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples)
    plain = losses(adapted, examples, None)

    with pytest.raises(KeyError), activations.replay(examples.batch(np.arange(2))):
        raise KeyError("something went wrong in between")

    np.testing.assert_array_equal(losses(adapted, examples, None), plain)


def test_an_adapter_does_not_change_what_is_kept() -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples)
    losses(adapted, examples, activations)
    adapted.load(random_adapter(adapted, seed=1))

    np.testing.assert_allclose(
        losses(adapted, examples, activations), losses(adapted, examples, None), rtol=ROUNDING
    )


@pytest.mark.parametrize("case", [LLAMA, BERT], ids=["llama", "bert"])
def test_bfloat16_losses_are_close(case: Case) -> None:
    adapted = case.adapted(layers=LAYERS, bfloat16=True, **TOP)
    adapted.load(random_adapter(adapted))
    examples = case.examples(LENGTHS)
    activations = kept(adapted, examples)
    assert activations.work
    losses(adapted, examples, activations, size=2)

    # bfloat16 rounds by 2^-9 at most, and a few layers do so some dozens of times.
    np.testing.assert_allclose(
        losses(adapted, examples, activations), losses(adapted, examples, None), rtol=0.05
    )


# How deep.


@pytest.mark.parametrize(("layers", "depth"), [([0], 0), ([0, 2], 0), ([1], 1), ([2], 2)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_depth_counts_the_layers_under_the_lowest_adapter(
    case: Case, layers: list[int], depth: int
) -> None:
    adapted = case.adapted(layers=LAYERS, adapter={"layers_to_transform": layers})

    assert FrozenPrefix(adapted).depth == depth


def test_nothing_is_kept_when_the_lowest_layer_is_adapted() -> None:
    adapted = LLAMA.adapted(layers=LAYERS)

    assert not kept(adapted, LLAMA.examples(LENGTHS)).work


# Models that replay is wrong for.


def bert_that_looks_layers_up() -> nn.Module:
    """Each layer scales its output by its place among the layers, as it finds it in each pass."""
    model = bert(layers=LAYERS)
    encoder = model.bert.encoder

    def scale(block: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + list(encoder.layer).index(block))

    for block in encoder.layer:
        block.register_forward_hook(scale)
    return model


def test_a_model_that_looks_layers_up_by_number_is_detected() -> None:
    job = make_job(targets=BERT.targets, task=BERT.task, **TOP)
    adapted = adapt(bert_that_looks_layers_up(), job)
    adapted.load(random_adapter(adapted))

    assert FrozenPrefix(adapted).depth == 2
    assert not kept(adapted, BERT.examples(LENGTHS)).work


def test_it_is_detected_under_a_head_and_an_adapter_of_zeros() -> None:
    job = make_job(targets=BERT.targets, task=BERT.task, **TOP)
    adapted = adapt(bert_that_looks_layers_up(), job)
    adapted.load(np.zeros(adapted.layout.adapter_size, np.float32))

    assert not kept(adapted, BERT.examples(LENGTHS)).work


def test_a_model_that_fails_without_its_lower_layers_is_detected() -> None:
    model = bert(layers=LAYERS)
    encoder = model.bert.encoder

    def needs_all_layers(_module: nn.Module, _args: Any) -> None:
        encoder.layer[LAYERS - 1]

    encoder.register_forward_pre_hook(needs_all_layers)
    adapted = adapt(model, make_job(targets=BERT.targets, task=BERT.task, **TOP))

    assert not kept(adapted, BERT.examples(LENGTHS)).work


def test_replay_is_judged_without_the_adapters_dropout_and_leaves_the_mode() -> None:
    dropout = {"layers_to_transform": [2], "dropout": 0.5}
    adapted = prepared(LLAMA, adapter=dropout, privacy={"mechanism": "none"})
    adapted.peft.train()

    assert kept(adapted, LLAMA.examples(LENGTHS)).work
    assert adapted.peft.training


# On disk.


def test_mapped_files_give_the_same_losses(on_disk: list[str], tmp_path: Path) -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples, folder=tmp_path)

    losses(adapted, examples, activations, size=2)
    again = losses(adapted, examples, activations)

    assert [Path(name).parent for name in on_disk] == [tmp_path]
    np.testing.assert_allclose(again, losses(adapted, examples, None), rtol=ROUNDING)


def test_a_mapped_file_outlives_nobody(on_disk: list[str], tmp_path: Path) -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)

    losses(adapted, examples, kept(adapted, examples, folder=tmp_path))

    assert on_disk
    assert list(tmp_path.iterdir()) == []


def test_small_stores_stay_in_memory(tmp_path: Path) -> None:
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples, folder=tmp_path / "no such folder")

    losses(adapted, examples, activations)


def test_a_full_disk_is_refused(
    on_disk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(activation_store.shutil, "disk_usage", lambda _: usage(100, 0, 100))
    adapted, examples = prepared(LLAMA), LLAMA.examples(LENGTHS)
    activations = kept(adapted, examples, folder=tmp_path)

    with pytest.raises(RunError, match="kept activations need more disk"):
        losses(adapted, examples, activations)
    assert on_disk == []


def test_what_was_computed_in_other_shapes_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one job's batches, and who was drawn for them, would show in the last bits of another's."""
    adapted = prepared(LLAMA, adapter={"layers_to_transform": [2]})
    examples = LLAMA.examples(LENGTHS)
    kept = Activations(FrozenPrefix(adapted), examples)
    shaped: list[tuple[int, ...]] = []
    compute = FrozenPrefix.compute

    def noted(self: FrozenPrefix, batch: Batch) -> torch.Tensor:
        shaped.append(tuple(batch.inputs["input_ids"].shape))
        return compute(self, batch)

    monkeypatch.setattr(FrozenPrefix, "compute", noted)
    everyone = np.arange(len(examples))
    one, other = (Shapes.of(ladder(16), batch_size=size, physical_batch_size=size) for size in (8, 1))
    kept_by = None
    for shapes in (one, one, other, one):
        shaped.clear()
        kept.fill(everyone, shapes)
        heights = {height for height, _ in shaped}
        assert heights <= set(shapes.heights_at(16))
        assert bool(heights) == (shapes != kept_by)
        kept_by = shapes
