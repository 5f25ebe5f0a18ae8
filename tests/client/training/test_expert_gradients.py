"""Gradients of routed experts: each example's is its own, and what no token reaches costs nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradient_check import choose_gradients
from client.training.gradients import Gradients, HookedGradients, OneByOne, alone, losses
from client.training.row_check import UnequalWeights, heights_apart
from client.training.sparse_rows import dense
from client.training.stacked_gradients import StackedGradients
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from protocol.job.job import TrainingSection
from tasks.model.adapted_model import AdaptedModel
from tasks.model.routed_experts import RoutedExperts
from tests.models import ROUTED, Case, random_adapter

SIZES = (3, 5, 7, 9)
CASES = pytest.mark.parametrize("case", ROUTED.values(), ids=ROUTED)


def exact(case: Case, **sections: Any) -> AdaptedModel:
    """The case's model in float64, with an adapter in which nothing is zero."""
    adapted = case.adapted(**sections)
    adapted.peft.double()
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    return adapted


def everyone(adapted: AdaptedModel, case: Case, *, rows: int | None = None) -> Gradients:
    examples = case.examples(SIZES)
    batch = examples.batch(np.arange(len(SIZES)), rows=rows)
    return StackedGradients(adapted).backward(batch, losses(adapted))


def routed(adapted: AdaptedModel) -> list[RoutedExperts]:
    return [module for module in adapted.peft.modules() if isinstance(module, RoutedExperts)]


def expert_tensors(found: Gradients) -> dict[str, torch.Tensor]:
    return {name: rows for name, rows in found.items() if rows.is_sparse}


@CASES
def test_equal_autograds_of_a_batch_of_one(case: Case) -> None:
    adapted = exact(case)
    batch = case.examples(SIZES).batch(np.arange(len(SIZES)), rows=len(SIZES) + 1)  # one row is blank
    found = dense(StackedGradients(adapted).backward(batch, losses(adapted)))
    apart = OneByOne(adapted).backward(batch, losses(adapted))
    names = [name for name in found if ".experts." in name]
    assert len(names) == 4 * sum(len(module.base_layer.down_proj) for module in routed(adapted))
    for index in range(len(SIZES)):
        one = case.examples(SIZES).batch(np.array([index]))
        expected = {
            name: torch.zeros_like(adapted.trained[name]) if gradient is None else gradient
            for name, gradient in alone(adapted, one, losses(adapted)).items()
        }
        size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
        experts = torch.stack([expected[name].norm() for name in names]).norm()
        assert experts > 0.01 * size, "the reference must have something to say of experts"
        for method in (found, apart):
            norm = torch.stack([rows[index].norm() for rows in method.values()]).norm()
            # A router computes in float32, whose last bit may depend on the height of a batch.
            assert abs(norm - size) <= 1e-6 * size
            for name, gradient in expected.items():
                assert (method[name][index] - gradient).norm() <= 1e-6 * size, name


@CASES
@pytest.mark.parametrize("strategy", ["lora", "ffa", "rolora"])
@pytest.mark.exhaustive(but=2)
def test_the_unit_check_passes_and_no_hooks_are_needed(case: Case, strategy: str) -> None:
    adapted = case.adapted(strategy={"name": strategy})
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    check_privacy_unit(method, adapted.probe())


@CASES
def test_segments_are_those_of_the_examples_that_reach_an_expert(case: Case) -> None:
    adapted = case.adapted()
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    chosen: list[torch.Tensor] = []
    for module in routed(adapted):
        module.register_forward_pre_hook(lambda _module, given: chosen.append(given[1]))
    found = expert_tensors(everyone(adapted, case))
    pairs = 0
    for indices in chosen:
        for row in indices.view(len(SIZES), -1):
            pairs += len(row.unique())
    # Each has A and B on both weights; of a tensor, rows are kept for no other example.
    assert sum(rows.values().shape[0] for rows in found.values()) == 4 * pairs
    assert pairs < len(SIZES) * sum(len(module.base_layer.down_proj) for module in routed(adapted))


def test_an_expert_that_nobody_reaches_costs_nothing() -> None:
    case = ROUTED["deepseek-v3"]
    adapted = case.adapted()
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    (experts,) = (
        name for name, module in adapted.peft.named_modules() if isinstance(module, RoutedExperts)
    )
    gate = adapted.peft.get_submodule(f"{experts.rpartition('.')[0]}.gate")
    gate.e_score_correction_bias[2] = -1e3
    found = expert_tensors(everyone(adapted, case))
    for weight in ("gate_up_proj", "down_proj"):
        for half in "AB":
            of = [found[f"{experts}.{weight}.{number}.lora_{half}.weight"] for number in range(4)]
            assert [rows._nnz() > 0 for rows in of] == [True, True, False, True]
            assert not of[2].to_dense().any()


def test_rows_of_several_sites_have_pairs_of_their_own() -> None:
    case = ROUTED["mixtral"]
    adapted = exact(case)
    batch = case.examples(SIZES).batch(np.arange(len(SIZES)))
    found = dense(UnequalWeights(adapted).backward(batch, losses(adapted)))
    held = {name: parameter.detach().clone() for name, parameter in adapted.trained.items()}
    for index in range(len(SIZES)):
        with torch.no_grad():
            for name, parameter in adapted.trained.items():
                parameter.copy_(held[name] * (1 + index / 16))
        expected = OneByOne(adapted).backward(batch, losses(adapted))
        size = torch.stack([rows[index].norm() for rows in expected.values()]).norm()
        for name, rows in expected.items():
            assert (found[name][index] - rows[index]).norm() <= 1e-6 * size, name


def test_a_frozen_half_gets_no_gradient() -> None:
    found = everyone(exact(ROUTED["mixtral"], strategy={"name": "ffa"}), ROUTED["mixtral"])
    assert expert_tensors(found)
    assert all(".lora_B." in name for name in found)


def test_each_example_is_alone_where_rounding_follows_from_the_batch() -> None:
    case = ROUTED["mixtral"]
    method = StackedGradients(case.adapted())
    assert heights_apart(method, size=8, heights=(2, 4), activations=None) == ()
    shapes = Trainer(method).shapes(TrainingSection(batch_size=4, physical_batch_size=4), None)
    assert set(shapes.heights.values()) == {(1,)}


def test_the_unit_check_refuses_segments_that_mix_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rows an expert's tokens are one segment, whose gradient would be the whole batch's."""
    case = ROUTED["qwen3-moe"]
    adapted = case.adapted()
    sort = RoutedExperts._sorted

    def mixed(self: RoutedExperts, top_k_index: torch.Tensor) -> Any:
        held, self._rows = self._rows, None
        try:
            return sort(self, top_k_index)
        finally:
            self._rows = held

    monkeypatch.setattr(RoutedExperts, "_sorted", mixed)
    with pytest.raises(PrivacyUnitError, match=r"experts\..* differs from its gradient alone"):
        check_privacy_unit(StackedGradients(adapted), adapted.probe())


def test_hooks_find_nothing_there() -> None:
    adapted = ROUTED["mixtral"].adapted()
    with pytest.raises(PrivacyUnitError):
        check_privacy_unit(HookedGradients(adapted), adapted.probe())
