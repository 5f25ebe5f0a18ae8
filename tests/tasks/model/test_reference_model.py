"""What preferences are compared with: the base model, or the adapter that training began with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradients import HookedGradients, OneByOne, PerExampleGradients, alone, losses
from client.training.sparse_rows import dense
from client.training.stacked_gradients import StackedGradients
from privacy.errors import ModelError
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import adapt, gpt2, llama, make_job, random_adapter

TARGETS = {llama: ["q_proj", "v_proj"], gpt2: ["c_attn"]}


def model(build: Any = llama, *, layers: int = 2, **sections: Any) -> AdaptedModel:
    return adapt(build(layers=layers), make_job(targets=TARGETS[build], task="preferences", **sections))


def pairs(adapted: AdaptedModel) -> Any:
    return adapted.task.made_up(adapted, np.random.default_rng(1), np.array([5, 8, 6]))


def told(adapted: AdaptedModel, adapter: Any, batch: Any) -> torch.Tensor:
    """What the model says of both answers with an adapter, by way of PEFT's own layers."""
    adapted.load(adapter)
    adapted._reference.begin_with({})
    base = adapted.task.reference(adapted, batch)  # type: ignore[attr-defined]
    margins = adapted.forward(batch).margins / adapted.spec.data["beta"]  # type: ignore[attr-defined]
    return margins + base[:, 0] - base[:, 1]


@pytest.mark.parametrize("build", TARGETS)
@pytest.mark.parametrize("scaling", ["lora", "rslora"])
@torch.no_grad()
def test_it_is_the_model_with_the_adapter_that_training_began_with(build: Any, scaling: str) -> None:
    adapted = model(build, adapter={"scaling": scaling, "alpha": 3.0})
    batch, start = pairs(adapted).batch(np.arange(3)), random_adapter(adapted)
    adapted.peft.eval()
    expected = told(adapted, start, batch)
    adapted.begin_with(start)
    adapted.load(adapted.some_adapter(5))  # whatever is trained
    found = adapted.task.reference(adapted, batch)  # type: ignore[attr-defined]
    torch.testing.assert_close(found[:, 0] - found[:, 1], expected, rtol=1e-5, atol=1e-6)
    # The base model's would be another, so the comparison tells.
    adapted._reference.begin_with({})
    base = adapted.task.reference(adapted, batch)  # type: ignore[attr-defined]
    assert float((base - found).abs().max()) > 1e-3


@torch.no_grad()
def test_the_margin_begins_at_nothing_with_any_first_adapter() -> None:
    adapted = model()
    start = random_adapter(adapted)
    adapted.begin_with(start)
    adapted.load(start)
    outcome = adapted.forward(pairs(adapted).batch(np.arange(3)))
    assert outcome.margins.abs().max() < 1e-6  # type: ignore[attr-defined]
    assert outcome.losses.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-6)


@pytest.mark.parametrize("method", [StackedGradients, HookedGradients, OneByOne])
def test_it_is_the_same_within_each_method_that_finds_gradients(method: type[Any]) -> None:
    adapted = model()
    made, start = pairs(adapted), random_adapter(adapted)
    adapted.peft.train()
    batch = made.batch(np.arange(3))
    gradients: PerExampleGradients = method(adapted)
    references = []
    for begun in ({}, adapted.layout.split(start)):
        adapted._reference.begin_with(begun)
        adapted.load(adapted.some_adapter(5))
        reference = adapted.task.reference(adapted, batch)  # type: ignore[attr-defined]
        references.append(reference)
        kept = batch.beside(reference=reference)
        loss = losses(adapted)
        # Computed within the pass, it is what it is when it was computed before.
        found, known = dense(gradients.backward(batch, loss)), dense(gradients.backward(kept, loss))
        for name in found:
            torch.testing.assert_close(found[name], known[name], rtol=1e-5, atol=1e-7)
        for index in range(3):
            for name, gradient in alone(adapted, made.batch(np.array([index])), loss).items():
                assert gradient is not None
                torch.testing.assert_close(found[name][index], gradient, rtol=1e-4, atol=1e-6)
    assert float((references[0] - references[1]).abs().max()) > 1e-3


def test_nothing_of_the_model_is_changed_by_it() -> None:
    adapted = model()
    batch = pairs(adapted).batch(np.arange(3))
    adapted.begin_with(random_adapter(adapted))
    adapted.load(adapted.some_adapter(5))
    before = adapted.now()
    asked = {name: p.requires_grad for name, p in adapted.peft.named_parameters()}
    adapted.task.reference(adapted, batch)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(adapted.now(), before)
    assert {name: p.requires_grad for name, p in adapted.peft.named_parameters()} == asked
    assert not any(layer._forward_hooks for layer in adapted._reference._layers)


@torch.no_grad()
def test_what_is_kept_of_examples_is_kept_with_it() -> None:
    adapted = model(layers=3, adapter={"layers_to_transform": [2]})
    made, start = pairs(adapted), random_adapter(adapted)
    adapted.begin_with(start)
    adapted.peft.eval()
    kept = Activations(FrozenPrefix(adapted), made)
    assert kept.work
    adapted.load(adapted.some_adapter(5))
    kept.fill(np.arange(3))
    batch = made.batch(np.arange(3))
    found = kept.fetch_reference(batch, rows=3)
    assert found is not None
    torch.testing.assert_close(
        found,
        adapted.task.reference(adapted, batch),  # type: ignore[attr-defined]
        rtol=1e-4,
        atol=1e-5,
    )
    adapted.load(start)
    with kept.replay(batch) as known:
        margins = adapted.forward(known).margins  # type: ignore[attr-defined]
    assert float(margins.abs().max()) < 1e-5


def test_pairs_of_other_layers_are_refused() -> None:
    adapted = model()
    adapted.peft.get_submodule("base_model.model.model.layers.1.self_attn.q_proj").lora_A["default"] = (
        torch.nn.Conv1d(16, 4, 1)
    )
    with pytest.raises(ModelError, match=r"expected linear layers with training\.warm_start"):
        adapted.begin_with(adapted.initial_adapter(0))
