"""A group of rows is one example: one gradient of all its rows, clipped once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradients import (
    Gradients,
    HookedGradients,
    Loss,
    OneByOne,
    PerExampleGradients,
    losses,
)
from client.training.stacked_gradients import StackedGradients
from client.training.step import add_batch
from client.training.sum_check import silent_optimizer
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.job import TrainingSection
from tasks.data.examples import Batch
from tasks.data.folded_examples import FoldedExamples, fold
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import adapt, bert, llama, make_examples, make_job, random_adapter

GAUSSIAN = Mechanism(name="gaussian", multiplier=1.0)
MOST = 3
COUNTS = np.array([3, 1, 2, 3])  # rows of each group
SIZES = (4, 7, 5, 6, 9, 3, 8, 4, 6)
METHODS = (HookedGradients, StackedGradients, OneByOne)


def model(build: Any = llama, *, most: int = MOST) -> AdaptedModel:
    task = "causal-lm" if build is llama else "sequence-classification"
    targets = ("q_proj", "v_proj") if build is llama else ("query", "value")
    job = make_job(targets=targets, task=task, privacy={"unit": "group"}, data=data(task, most))
    adapted = adapt(build(), job)
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    return adapted


def data(task: str, most: int) -> dict[str, Any]:
    labels = {} if task == "causal-lm" else {"label": "label", "labels": ["a", "b", "c"]}
    return {"source": "none", "max_length": 64, "group": "person", "rows_per_group": most, **labels}


def rows_of(build: Any) -> TokenExamples:
    return make_examples(SIZES, labelled=build is bert)


def groups(build: Any = llama) -> FoldedExamples:
    return fold(rows_of(build), COUNTS, together=MOST)


def brute_force(adapted: AdaptedModel, rows: TokenExamples, own: np.ndarray) -> torch.Tensor:
    """Autograd's gradients of the rows one by one, without any of the folding: their mean, one vector."""
    task = adapted.task.of_rows  # type: ignore[attr-defined]  # of groups
    found = []
    for row in own:
        loss = task.forward(adapted, rows.batch(np.array([row]))).losses[0]
        parts = torch.autograd.grad(loss, list(adapted.trained.values()))
        found.append(torch.cat([part.flatten() for part in parts]).double())
    return torch.stack(found).mean(0)


def released(adapted: AdaptedModel, gradients: Gradients, *, bound: float) -> torch.Tensor:
    """The clipped sum that a step makes of gradients, as one vector."""
    optimizer = silent_optimizer(adapted, GAUSSIAN, clipping_norm=bound)
    add_batch(optimizer, gradients, last=True)
    parts = [p.grad.double() * TrainingSection().batch_size for p in adapted.trained.values()]
    optimizer.zero_grad(set_to_none=True)
    return torch.cat([part.flatten() for part in parts])


class Unfolded:
    """The mistake: each row of a group is taken for an example of its own."""

    batched = True

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        apart = []
        for row in range(batch.rows_an_example):
            there = torch.zeros_like(batch.inputs["there"])
            there[:, row] = batch.inputs["there"][:, row]
            apart.append(OneByOne(self.adapted).backward(batch.beside(there=there), loss))
        return {name: torch.cat([one[name] for one in apart]) for name in apart[0]}


class FirstRowOnly:
    """The mistake: of a group its first row is computed, and the others are forgotten."""

    batched = True

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        there = batch.inputs["there"].clone()
        there[:, 1:] = 0.0
        return OneByOne(self.adapted).backward(batch.beside(there=there), loss)


@pytest.mark.parametrize("method", [Unfolded, FirstRowOnly])
def test_the_unit_check_refuses_rows_that_are_not_folded(method: Any) -> None:
    adapted = model()
    with pytest.raises(PrivacyUnitError, match=r"lora_[AB]"):
        check_privacy_unit(method(adapted), adapted.probe())


def test_rows_clipped_apart_move_the_sum_by_more_than_the_norm() -> None:
    """What the check is for: a person of two like rows counts twice where each row is clipped by itself."""
    adapted, bound = model(), 1e-4
    twice = make_examples((5,))
    both = fold(twice.take(np.array([0, 0])), np.array([2]), together=MOST).batch(np.arange(1))
    folded = released(adapted, HookedGradients(adapted).backward(both, losses(adapted)), bound=bound)
    apart = released(adapted, Unfolded(adapted).backward(both, losses(adapted)), bound=bound)
    assert float(folded.norm()) / bound == pytest.approx(1.0, abs=1e-3)
    assert float(apart.norm()) / bound == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("build", [llama, bert])
@pytest.mark.parametrize("method", METHODS)
def test_the_clipped_sum_is_that_of_brute_force(build: Any, method: type[PerExampleGradients]) -> None:
    adapted = model(build)
    rows, ends = rows_of(build), np.cumsum(COUNTS)
    alone = [brute_force(adapted, rows, np.arange(e - n, e)) for e, n in zip(ends, COUNTS, strict=True)]
    bound = float(np.median([float(one.norm()) for one in alone]))
    expected = sum(one * min(1.0, bound / float(one.norm())) for one in alone)

    batch = groups(build).batch(np.arange(4), rows=6)  # two blank groups beside
    found = released(adapted, method(adapted).backward(batch, losses(adapted)), bound=bound)

    assert float((found - expected).norm()) <= 1e-6 * len(alone) * bound


@pytest.mark.parametrize("method", METHODS)
def test_a_group_that_is_left_out_moves_the_sum_by_the_norm_at_most(method: Any) -> None:
    adapted = model()
    examples, bound = groups(), 1e-3
    everyone, gradients = np.arange(4), method(adapted)

    def summed(chosen: np.ndarray) -> torch.Tensor:
        batch = examples.batch(chosen, size=16, rows=6)
        return released(adapted, gradients.backward(batch, losses(adapted)), bound=bound)

    whole = summed(everyone)
    for left_out in everyone:
        moved = float((whole - summed(np.delete(everyone, left_out))).norm())
        assert moved <= bound * (1 + 1e-3)
        assert moved >= 0.9 * bound  # each is longer than the norm, so that it is reached


@pytest.mark.parametrize("method", METHODS)
def test_the_unit_check_passes(method: Any) -> None:
    adapted = model(bert)
    check_privacy_unit(method(adapted), adapted.probe())


def test_the_order_of_a_groups_rows_is_nothing() -> None:
    adapted, rows = model(), rows_of(llama)
    one = fold(rows.take(np.array([0, 1, 2])), np.array([3]), together=MOST)
    other = fold(rows.take(np.array([2, 0, 1])), np.array([3]), together=MOST)
    method = HookedGradients(adapted)
    first, second = (method.backward(each.batch(np.arange(1)), losses(adapted)) for each in (one, other))
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], rtol=1e-5, atol=1e-7)


def test_rows_that_are_blank_do_not_count_and_a_group_of_such_alone_is_blank() -> None:
    rows = make_examples((0, 5, 0, 0))
    found = fold(rows, np.array([2, 2, 0]), together=MOST)
    assert found.sizes.tolist() == [5, 0, 0]
    assert found.there.tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert found.without_blanks(np.arange(3)).tolist() == [0]
    assert found.take(np.array([1, 0])).sizes.tolist() == [0, 5]


def test_kept_activations_give_the_same_gradients() -> None:
    job = make_job(
        targets=("query", "value"),
        task="sequence-classification",
        adapter={"layers_to_transform": [1]},
        privacy={"unit": "group"},
        data=data("sequence-classification", MOST),
    )
    adapted = adapt(bert(), job)
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    examples = groups(bert)
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    batch = examples.batch(np.arange(4), rows=6)
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    method = StackedGradients(adapted)
    expected = method.backward(batch, losses(adapted))
    found = method.backward(batch, losses(adapted, kept))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
