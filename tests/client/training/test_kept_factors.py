"""Layers whose gradients are held as factors: found, checked, clipped and released as all others are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import client.training.stacked_gradients
import privacy.mechanisms.factored_clipping
from client.training.gradient_check import check_gradients, choose_gradients, comparable
from client.training.gradients import Found, HookedGradients, Loss, OneByOne, losses
from client.training.row_check import heights_apart
from client.training.sparse_rows import dense, joined, numbers, take
from client.training.stacked_gradients import StackedGradients
from client.training.step import take_step, whatever_fails
from client.training.sum_check import released_sum, silent_optimizer
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.factored_gradients import Factors, numbers_spared
from privacy.mechanisms.mechanism import Mechanism
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel
from tests.client.training.test_pairs import model as pair_model
from tests.client.training.test_pairs import pairs
from tests.models import CASES, Case, adapt, llama, make_job, random_adapter

GAUSSIAN = Mechanism(name="gaussian", multiplier=1.0)
HEAD = "base_model.model.classifier.weight"
SIZES = (3, 5, 7, 4)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors are kept of all linear layers: models as small as these have no wide ones."""
    monkeypatch.setattr(client.training.stacked_gradients, "_SPARED", 0.0)


def held(found: Found) -> set[str]:
    return {name for name, gradients in found.items() if isinstance(gradients, Factors)}


def loaded(adapted: AdaptedModel) -> AdaptedModel:
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    return adapted


def released(method: Any, batch: Batch, *, bound: float) -> Mapping[str, torch.Tensor]:
    """The clipped sum that a step of training's own optimizer releases, in clipping norms."""
    optimizer = silent_optimizer(method.adapted, GAUSSIAN, clipping_norm=bound)
    take_step(optimizer, method, [batch], losses(method.adapted))
    return released_sum(method.adapted, optimizer, bound=bound, drawn=len(batch.indices))


@pytest.mark.exhaustive(but=2)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.usefixtures("always")
def test_the_unit_check_passes_with_factors_of_all_layers(case: Case) -> None:
    method = StackedGradients(case.adapted())
    batch = case.examples().batch(np.arange(4))
    adapted = loaded(method.adapted)
    weights = {name for name in adapted.trained if name.endswith("weight")}
    assert held(method.backward(batch, losses(adapted))) == weights
    check_privacy_unit(method, case.examples())


@pytest.mark.parametrize("bound", [1e-3, 0.3, 1e3])
@pytest.mark.usefixtures("always")
def test_a_step_releases_what_hooks_make_of_it(bound: float) -> None:
    case = CASES["llama-all-linear"]
    factored, hooked = (kind(loaded(case.adapted())) for kind in (StackedGradients, HookedGradients))
    batch = case.examples(SIZES).batch(np.arange(4), rows=6)
    expected = released(hooked, batch, bound=bound)
    for name, total in released(factored, batch, bound=bound).items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=2e-6)
    assert any(total.abs().max() > 1e-4 for total in expected.values())


def test_which_layers_they_are_follows_from_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["bert-qv-head"]
    adapted = loaded(case.adapted())
    batch = case.examples(SIZES).batch(np.arange(4), rows=6)
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    assert not held(method.backward(batch, losses(loaded(adapted))))
    # The head has 3 · 16 numbers, of vectors of 3 and of 16, and LoRA 2 · 16, of these at each token.
    for spared, kept in ((3 * 16 / 19, {HEAD}), (1.01 * 3 * 16 / 19, set())):
        monkeypatch.setattr(client.training.stacked_gradients, "_SPARED", spared)
        found = method.backward(batch, losses(loaded(adapted)))
        assert held(found) == kept
    assert numbers_spared(places=7, shape=(3, 16)) == 3 * 16 / (7 * 19)


@pytest.mark.usefixtures("always")
def test_a_pairs_two_rows_are_places_of_one_gradient() -> None:
    adapted = pair_model()
    method, examples = StackedGradients(adapted), pairs(adapted)
    with comparable(adapted):
        assert held(check := method.backward(examples.batch(np.arange(4)), losses(adapted))) == set(check)
        check_gradients(method, examples)
    check_privacy_unit(method, examples)


@pytest.mark.usefixtures("always")
def test_a_layer_that_is_called_twice_has_one_gradient() -> None:
    adapted = CASES["llama-qv"].adapted()
    layer = adapted.peft.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    whole = layer.forward
    layer.forward = lambda x: whole(x) + 0.5 * whole(x.flip(1)).flip(1).square()
    with comparable(adapted):
        method = StackedGradients(adapted)
        found = method.backward(CASES["llama-qv"].examples().batch(np.arange(4)), losses(adapted))
        places = {name.split(".")[4]: g.inputs.shape[1] for name, g in found.items() if "q_proj" in name}  # type: ignore[union-attr]
        assert places == {"0": 9, "1": 18}
        check_gradients(method, CASES["llama-qv"].examples())


@pytest.mark.usefixtures("always")
def test_what_is_done_in_place_to_a_layers_output_comes_after_it() -> None:
    adapted = CASES["llama-qv"].adapted()
    half = adapted.peft.get_submodule("base_model.model.model.layers.0.self_attn.v_proj.lora_A.default")
    half.register_forward_hook(lambda _module, _args, output: output.mul_(3.0).relu_())
    with comparable(adapted):
        check_gradients(StackedGradients(adapted), CASES["llama-qv"].examples())


@pytest.mark.usefixtures("always")
def test_none_are_kept_where_layers_are_computed_again() -> None:
    spec = {"model": {"source": "a tiny random model", "checkpointing": True}}
    job = make_job(targets=("q_proj",), **spec)
    adapted = loaded(adapt(llama(), job))
    examples = CASES["llama-qv"].examples()
    assert not held(StackedGradients(adapted).backward(examples.batch(np.arange(4)), losses(adapted)))


@pytest.mark.usefixtures("always")
def test_in_bfloat16_factors_are_as_they_are_multiplied() -> None:
    adapted = loaded(CASES["llama-qv"].adapted(bfloat16=True))
    batch = CASES["llama-qv"].examples(SIZES).batch(np.arange(4))
    found = StackedGradients(adapted).backward(batch, losses(adapted))
    expected = OneByOne(adapted).backward(batch, losses(adapted))
    for name, gradients in found.items():
        assert isinstance(gradients, Factors)
        assert gradients.inputs.dtype == gradients.outputs.dtype == torch.bfloat16
        off = (gradients.whole() - expected[name]).norm() / expected[name].norm()
        assert off < 0.05, name


# What takes gradients as they are found.


@pytest.mark.usefixtures("always")
def test_an_example_that_the_model_fails_on_changes_nothing_for_the_others() -> None:
    adapted = loaded(CASES["llama-qv"].adapted())
    method, whole = StackedGradients(adapted), losses(adapted)
    batch = CASES["llama-qv"].examples((5, 5, 5, 5)).batch(np.arange(4), rows=6)

    def failing(batch: Batch) -> torch.Tensor:
        if 1 in batch.indices:
            raise ValueError("no such text")
        return whole(batch)

    found = whatever_fails(method, batch, failing)
    expected = method.backward(batch, whole)
    assert held(found) == set(adapted.trained)
    assert torch.equal(numbers(found)[[0, 2, 3]], numbers(expected)[[0, 2, 3]])
    assert not numbers(found)[1].any()
    some = take(expected, torch.tensor([2, 0]))
    assert torch.equal(numbers(some), numbers(expected)[[2, 0]])
    name = next(iter(adapted.trained))
    with pytest.raises(
        PrivacyUnitError, match="held as factors of some examples of a batch and not of others"
    ):
        joined([{name: expected[name]}, {name: dense(expected)[name]}])


@pytest.mark.usefixtures("always")
def test_the_row_check_looks_at_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = CASES["llama-qv"].adapted()
    method, backward = StackedGradients(adapted), StackedGradients.backward

    def found(self: StackedGradients, batch: Batch, loss: Loss) -> Found:
        found = backward(self, batch, loss)
        name, factors = next(iter(found.items()))
        assert isinstance(factors, Factors)
        place = torch.arange(len(factors))[:, None, None]
        moved = Factors(inputs=factors.inputs * (1 + 2.0**-20 * place), outputs=factors.outputs)
        return {**found, name: moved}

    assert heights_apart(method, size=16, heights=(4, 8), activations=None) == (4, 8)
    monkeypatch.setattr(StackedGradients, "backward", found)
    assert heights_apart(method, size=16, heights=(4, 8), activations=None) == ()


# Broken on purpose.


def left_out_of_the_norm(lengths: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(lengths)


def half_as_long(lengths: torch.Tensor) -> torch.Tensor:
    return lengths / 2


def of_the_example_before(lengths: torch.Tensor) -> torch.Tensor:
    return lengths.roll(1)


@pytest.mark.parametrize("wrong", [left_out_of_the_norm, half_as_long, of_the_example_before])
@pytest.mark.usefixtures("always")
def test_the_unit_check_refuses_wrong_norms(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = privacy.mechanisms.factored_clipping._lengths
    monkeypatch.setattr(privacy.mechanisms.factored_clipping, "_lengths", lambda *args: wrong(right(*args)))
    case = CASES["llama-qv"]
    with pytest.raises(PrivacyUnitError, match=r"the clipped sum moves by .* when all examples are drawn"):
        check_privacy_unit(StackedGradients(case.adapted()), case.examples())


@pytest.mark.usefixtures("always")
def test_the_unit_check_refuses_a_use_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    right = client.training.stacked_gradients._kept_factors

    def first_place(*args: Any, **named: Any) -> dict[str, Factors]:
        found = right(*args, **named)
        name = max(found)
        one = found[name]
        return {**found, name: Factors(inputs=one.inputs[:, :1], outputs=one.outputs[:, :1])}

    monkeypatch.setattr(client.training.stacked_gradients, "_kept_factors", first_place)
    with pytest.raises(PrivacyUnitError, match="differs from its gradient alone"):
        check_privacy_unit(StackedGradients(CASES["llama-qv"].adapted()), CASES["llama-qv"].examples())
