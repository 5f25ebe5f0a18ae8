"""Each example's gradient in a batch is the one that autograd gives for that example alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from client.training.gradients import (
    Found,
    Gradients,
    HookedGradients,
    OneByOne,
    PerExampleGradients,
    losses,
)
from client.training.sparse_rows import dense
from client.training.stacked_gradients import StackedGradients
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, Case, random_adapter

# A float32 sum of n terms in another order differs by about sqrt(n) · 2^-24 of its size; chains of
# sums under 1,000 terms in a model this small stay under a hundred times 2^-24 = 6e-8.
RELATIVE = 1e-5
Method = type[StackedGradients] | type[HookedGradients] | type[OneByOne]


def alone(adapted: AdaptedModel, examples: Examples, index: int) -> Gradients:
    """Autograd's gradient for one example, on a model that Opacus never touched."""
    loss = adapted.forward(examples.batch(np.array([index]))).losses.sum()
    gradients = torch.autograd.grad(loss, list(adapted.trained.values()))
    return dict(zip(adapted.trained, gradients, strict=True))


def together(
    method: PerExampleGradients, examples: Examples, activations: Activations | None = None
) -> Gradients:
    """What training takes for the gradients of all examples."""
    batch = examples.batch(np.arange(len(examples)))
    return method.backward(batch, losses(method.adapted, activations))


def furthest(given: Found, adapted: AdaptedModel, examples: Examples) -> float:
    """The largest distance of a tensor from its reference, relative to the whole gradient."""
    found, worst = dense(given), 0.0
    assert all(one.isfinite().all() for one in found.values())
    for index in range(len(examples)):
        expected = alone(adapted, examples, index)
        size = torch.cat([g.flatten() for g in expected.values()]).norm()
        assert size > 1e-3, "the reference must have something to say"
        for name, gradient in expected.items():
            worst = max(worst, float((found[name][index] - gradient).norm() / size))
    return worst


@pytest.mark.parametrize("kind", [StackedGradients, HookedGradients, OneByOne])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.exhaustive(but=6)
def test_equal_those_of_a_batch_of_one(case: Case, kind: Method) -> None:
    adapted, reference = case.adapted(), case.adapted()
    adapter = random_adapter(adapted)
    adapted.load(adapter)
    reference.load(adapter)
    method = kind(adapted)
    adapted.peft.train()

    found = together(method, case.examples())

    assert furthest(found, reference, case.examples()) < RELATIVE


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equal_them_when_frozen_layers_are_replayed(case: Case) -> None:
    top = {"adapter": {"layers_to_transform": [2]}}
    adapted, reference = case.adapted(layers=3, **top), case.adapted(layers=3, **top)
    adapter = random_adapter(adapted)
    adapted.load(adapter)
    reference.load(adapter)
    method = HookedGradients(adapted)
    adapted.peft.train()
    prefix = FrozenPrefix(adapted)
    activations = Activations(prefix, case.examples())
    assert prefix.depth == 2

    computed = together(method, case.examples(), activations)
    kept = together(method, case.examples(), activations)

    assert furthest(computed, reference, case.examples()) < RELATIVE
    assert furthest(kept, reference, case.examples()) < RELATIVE


@pytest.mark.parametrize("name", ["bert-qv-head", "llama-all-linear"])
def test_are_close_to_them_in_bfloat16(name: str) -> None:
    case = CASES[name]
    adapted, reference = case.adapted(bfloat16=True), case.adapted()
    adapter = random_adapter(adapted)
    adapted.load(adapter)
    reference.load(adapter)
    method = HookedGradients(adapted)
    adapted.peft.train()

    found = together(method, case.examples())

    # bfloat16 keeps 8 bits, 0.4 % a rounding; some dozens of roundings in a row stay under 10 %.
    # A gradient of another example is off by its whole size.
    assert furthest(found, reference, case.examples()) < 0.1


@pytest.mark.parametrize("strategy", ["ffa", "fedsvd"])
def test_leave_the_frozen_half_of_a_pair_alone(strategy: str) -> None:
    adapted = CASES["llama-qv"].adapted(strategy={"name": strategy})
    method = HookedGradients(adapted)
    adapted.load(random_adapter(adapted))
    adapted.peft.train()

    found = together(method, CASES["llama-qv"].examples())

    assert found
    assert all(".lora_B." in name for name in found)


def test_a_model_left_in_eval_mode_is_not_trained_by_accident() -> None:
    case = CASES["llama-qv"]
    method = HookedGradients(case.adapted())
    method.adapted.peft.eval()

    # Opacus' hooks record nothing in this mode.
    with pytest.raises(ValueError, match="No activations detected"):
        together(method, case.examples())


def test_an_example_that_does_not_use_a_layer_has_nothing_of_it() -> None:
    case = next(iter(CASES.values()))
    adapted = case.adapted()
    used, *others = adapted.trained.items()

    def loss(batch: Batch) -> torch.Tensor:
        parts = [used] if batch.indices[0] == 1 else [used, *others]
        return torch.stack([(2.0 * parameter).sum() for _, parameter in parts]).sum()[None]

    batch = case.examples().batch(np.array([0, 1]))
    for _ in range(2):  # with another one beside it, and without any
        found = OneByOne(adapted).backward(batch, loss)
        of_it = {name: gradients[-1] for name, gradients in found.items()}
        assert (of_it.pop(used[0]) == 2.0).all()
        assert of_it
        assert all((gradient == 0.0).all() for gradient in of_it.values())
        batch = case.examples().batch(np.array([1]))


@pytest.mark.parametrize("kind", [StackedGradients, HookedGradients, OneByOne])
def test_a_layer_that_no_example_of_a_batch_uses_has_nothing_of_them(kind: Method) -> None:
    """As an expert that nobody is sent to: nothing fails, whoever else was drawn."""
    case = CASES["bert-qv-head"]
    adapted = case.adapted()
    adapted.load(random_adapter(adapted))
    method = kind(adapted)
    adapted.peft.train()
    path, layer = next((n, m) for n, m in adapted.peft.named_modules() if isinstance(m, LoraLayer))
    usual = losses(adapted)

    def loss(batch: Batch) -> torch.Tensor:
        layer._disable_adapters = True
        try:
            return usual(batch)
        finally:
            layer._disable_adapters = False

    batch = case.examples().batch(np.array([1, 2]), rows=4)
    found, expected = method.backward(batch, loss), OneByOne(adapted).backward(batch, loss)
    idle = [name for name in found if name.startswith(path)]
    assert idle
    for name, gradients in found.items():
        assert gradients.shape == (2, *adapted.trained[name].shape)
        assert (name in idle) == (gradients == 0.0).all()
        torch.testing.assert_close(gradients, expected[name], rtol=1e-4, atol=1e-6)
    # And the next batch, which uses it, has something of it.
    assert all((method.backward(batch, usual)[name] != 0.0).any() for name in idle)
