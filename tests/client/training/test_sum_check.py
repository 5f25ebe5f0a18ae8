"""The check refuses sums and steps in which one example may do more than the plan accounts for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import client.training.optimizer
import client.training.step
import client.training.sum_check
from client.training.gradients import HookedGradients
from client.training.optimizer import PrivateOptimizer
from client.training.step import take_step
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedSum, clip_gradients
from tasks.data.examples import Batch
from tests.models import CASES, Case

LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]


def check(case: Case) -> None:
    check_privacy_unit(HookedGradients(case.adapted()), case.examples())


# Clippers broken on purpose: whoever changes the optimizer may make one of these mistakes.

Tensors = list[torch.Tensor]


def norms(gradients: Tensors, norm: int) -> torch.Tensor:
    return torch.cat([g.flatten(1) for g in gradients], dim=1).norm(norm, dim=1)


def weighted(
    gradients: Tensors, factors: torch.Tensor, *, bound: float, norm: int, steps: float
) -> ClippedSum:
    """A sum that claims the bound, with these factors for clipping."""
    scale = steps / bound
    tensors = tuple(torch.einsum("n,n...->...", factors, g).double() * scale for g in gradients)
    return ClippedSum(tensors=tensors, bound=bound, norm=norm, zeroed=0, steps=steps)


def scaled(clipped: ClippedSum, factor: torch.Tensor | float) -> ClippedSum:
    return replace(clipped, tensors=tuple(factor * tensor for tensor in clipped.tensors))


def not_at_all(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    return weighted(gradients, torch.ones(len(gradients[0])), bound=bound, norm=norm, steps=steps)


def a_little_over(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    return scaled(clip_gradients(gradients, bound=bound, norm=norm, steps=steps), 1.01)


def after_taking_the_mean_off(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    centred = [g - g.mean(0, keepdim=True).nan_to_num() for g in gradients]
    return clip_gradients(centred, bound=bound, norm=norm, steps=steps)


def the_mean_in_place_of_each(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    count = len(gradients[0])
    means = [g.sum(0, keepdim=True) / max(count, 1) for g in gradients]
    return scaled(clip_gradients(means, bound=bound, norm=norm, steps=steps), count)


def each_tensor_by_itself(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    sums = [clip_gradients([g], bound=bound, norm=norm, steps=steps).tensors[0] for g in gradients]
    return ClippedSum(tensors=tuple(sums), bound=bound, norm=norm, zeroed=0, steps=steps)


def by_one_factor_for_all(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    factor = (bound / norms(gradients, norm).mean()).clamp(max=1.0).nan_to_num()
    return weighted(gradients, factor.expand(len(gradients[0])), bound=bound, norm=norm, steps=steps)


def in_l2_where_l1_is_promised(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    return replace(clip_gradients(gradients, bound=bound, norm=2, steps=steps), norm=norm)


def over_the_batch_drawn(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    """Divides by the examples that were drawn, as Opacus' adaptive clipping does."""
    return scaled(
        clip_gradients(gradients, bound=bound, norm=norm, steps=steps), 1 / max(len(gradients[0]), 1)
    )


def times_the_mean_norm(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    """Off by the batch's mean: each example is under the bound, and moves the others."""
    mean = norms(gradients, norm).sum() / max(len(gradients[0]), 1)
    return scaled(clip_gradients(gradients, bound=bound, norm=norm, steps=steps), mean / (mean + bound))


def lengthened_to_the_bound(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    """Makes every gradient as long as the bound, which a blank one cannot be."""
    return weighted(gradients, bound / norms(gradients, norm), bound=bound, norm=norm, steps=steps)


def with_non_finite_examples_in(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
    factors = (bound / norms(gradients, norm)).clamp(max=1.0).nan_to_num()
    blank = norms(gradients, norm) == 0
    return weighted(gradients, torch.where(blank, 1.0, factors), bound=bound, norm=norm, steps=steps)


def with_their_finite_numbers_in(
    gradients: Tensors, *, bound: float, norm: int, steps: float
) -> ClippedSum:
    patched = [g.nan_to_num(0.0, 0.0, 0.0) for g in gradients]
    return clip_gradients(patched, bound=bound, norm=norm, steps=steps)


def none_where_one_is_not_finite(
    gradients: Tensors, *, bound: float, norm: int, steps: float
) -> ClippedSum:
    finite = all(bool(g.isfinite().all()) for g in gradients)
    kept = gradients if finite else [torch.zeros_like(g) for g in gradients]
    return clip_gradients(kept, bound=bound, norm=norm, steps=steps)


def one_blank_when_nobody_is_there(
    gradients: Tensors, *, bound: float, norm: int, steps: float
) -> ClippedSum:
    """Fills an empty batch up so that it has a shape, with ones."""
    filled = [g if len(g) else torch.ones((1, *g.shape[1:])) for g in gradients]
    return clip_gradients(filled, bound=bound, norm=norm, steps=steps)


CLIPPERS = {
    not_at_all: "an example is left out; expected at most 1",
    a_little_over: "by 1.01 clipping norms when an example is left out",
    after_taking_the_mean_off: "an example is (left out|clipped and summed apart)",
    the_mean_in_place_of_each: "an example is (left out|clipped and summed apart)",
    each_tensor_by_itself: "an example is left out",
    by_one_factor_for_all: "an example is (left out|clipped and summed apart)",
    in_l2_where_l1_is_promised: "an example is left out",
    over_the_batch_drawn: "an example is clipped and summed apart from the others; expected at most 0",
    times_the_mean_norm: "an example is clipped and summed apart from the others",
    lengthened_to_the_bound: "by nan clipping norms when a blank example comes in",
    with_non_finite_examples_in: r"by nan clipping norms when an example that is not finite \(nan\)",
    with_their_finite_numbers_in: r"an example that is not finite \(nan\) comes in; expected at most 0",
    none_where_one_is_not_finite: r"an example that is not finite \(nan\) comes in",
    one_blank_when_nobody_is_there: "nobody is drawn",
}


@pytest.mark.parametrize("case", [BERT, LLAMA], ids=["bert", "llama"])
@pytest.mark.parametrize("clipped", CLIPPERS)
@pytest.mark.exhaustive(but=8)
def test_refuses_examples_clipped(
    clipped: Callable[..., ClippedSum], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.training.optimizer, "clip_found", clipped)

    moves = rf"^base_model\..*: the clipped sum moves .*{CLIPPERS[clipped]}"
    with pytest.raises(PrivacyUnitError, match=moves):
        check(case)


def test_refuses_a_replacement_that_only_shows_on_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(gradients: Tensors, *, bound: float, norm: int, steps: float) -> ClippedSum:
        """Clips what is a little too long, and takes what is far too long for a mistake."""
        factors = (bound / norms(gradients, norm)).clamp(max=1.0)
        trusted = torch.where(norms(gradients, norm) > 100 * bound, 1.0, factors)
        return weighted(gradients, trusted, bound=bound, norm=norm, steps=steps)

    monkeypatch.setattr(client.training.optimizer, "clip_found", trusting)

    with pytest.raises(PrivacyUnitError, match="opposite comes in, a thousand times as long"):
        check(LLAMA)


# Steps broken on purpose: each first sum of an optimizer is right.


class Counting(PrivateOptimizer):
    """Knows how many examples its step has drawn, and what it released last."""

    drawn = 0
    last: Tensors | None = None

    def clip_and_accumulate(self) -> None:
        self.drawn += len(self.params[0].grad_sample)
        super().clip_and_accumulate()

    def scale_grad(self) -> None:
        super().scale_grad()
        self.change(self.drawn, self.last)
        self.drawn, self.last = 0, [p.grad.clone() for p in self.params]

    def change(self, drawn: int, last: Tensors | None) -> None:
        raise NotImplementedError


class KeepsTheSumWhenEmpty(Counting):
    def change(self, drawn: int, last: Tensors | None) -> None:
        for parameter, released in zip(self.params, last or [], strict=bool(last)):
            if not drawn:
                parameter.grad = released


class AddsToTheLastSum(Counting):
    """Never clears it."""

    def change(self, drawn: int, last: Tensors | None) -> None:
        for parameter, released in zip(self.params, last or [], strict=bool(last)):
            parameter.grad += released


class DividesByThoseDrawn(Counting):
    def change(self, drawn: int, last: Tensors | None) -> None:
        for parameter in self.params:
            parameter.grad *= self.expected_batch_size / max(drawn, 1)


class SkipsAnEmptyStep(PrivateOptimizer):
    def step(self, closure: Any = None) -> None:
        if len(self.params[0].grad_sample):
            super().step(closure)


class KeepsOneSum(PrivateOptimizer):
    """Clears all sums of a step but one."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        kept = self.params[-1].summed_grad
        super().zero_grad(set_to_none)
        self.params[-1].summed_grad = kept


class KeepsOneGradient(PrivateOptimizer):
    """Clears all gradients but one's: a batch that does not use it would add them again."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        kept = self.params[-1].grad_sample
        super().zero_grad(set_to_none)
        self.params[-1].grad_sample = kept


STEPS = {
    KeepsTheSumWhenEmpty: "clipped sum moves by .* nobody is drawn after others",
    AddsToTheLastSum: "clipped sum moves by .* nobody is drawn after others",
    DividesByThoseDrawn: "clipped sum moves by",
    SkipsAnEmptyStep: "no step is taken for a batch of 0 examples",
    KeepsOneSum: "summed_grad of one batch is still there",
    KeepsOneGradient: "grad_sample of one batch is still there",
}


@pytest.mark.parametrize("case", [BERT, LLAMA], ids=["bert", "llama"])
@pytest.mark.parametrize("broken", STEPS)
def test_refuses_a_broken_step(
    broken: type[PrivateOptimizer], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.training.step, "PrivateOptimizer", broken)

    with pytest.raises(PrivacyUnitError, match=rf"^base_model\..*: .*{STEPS[broken]}"):
        check(case)


def test_refuses_a_sum_of_the_last_physical_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClippedSum, "joined", lambda self, other: other)

    with pytest.raises(PrivacyUnitError, match=r"layers\..* cut into physical batches"):
        check(LLAMA)


def test_refuses_a_step_that_leaves_physical_batches_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_only(optimizer: Any, method: Any, batches: list[Batch], loss: Any) -> None:
        take_step(optimizer, method, batches[-1:], loss)

    monkeypatch.setattr(client.training.sum_check, "take_step", last_only)

    with pytest.raises(PrivacyUnitError, match=r"layers\..* cut into physical batches"):
        check(LLAMA)


def test_refuses_a_step_that_skips_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(optimizer: Any, method: Any, batches: list[Batch], loss: Any) -> None:
        if batches:
            take_step(optimizer, method, batches, loss)

    monkeypatch.setattr(client.training.sum_check, "take_step", skipping)

    with pytest.raises(PrivacyUnitError, match="no step is taken for a batch of 0 examples"):
        check(LLAMA)


def test_refuses_an_optimizer_that_lacks_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking(PrivateOptimizer):
        def __init__(self, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
            optimizer.param_groups[0]["params"].pop()
            super().__init__(optimizer, **kwargs)

    monkeypatch.setattr(client.training.step, "PrivateOptimizer", Lacking)

    with pytest.raises(PrivacyUnitError, match=r"outside the optimizer: .*layers\.1\.self_attn\.v_proj"):
        check(LLAMA)
