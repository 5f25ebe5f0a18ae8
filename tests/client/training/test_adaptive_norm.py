"""A clipping norm follows a quantile, in steps that are as long whatever it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from client.training.adaptive_norm import AdaptiveNorm
from client.training.gradients import HookedGradients
from client.training.noise_check import check_noise
from client.training.optimizer import PrivateOptimizer
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.counted_sum import Counted, CountedSum
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism
from privacy.mechanisms.rng import keyed_entropy, keyed_source
from protocol.job.job import TrainingSection
from tests.client.optimizers import random_gradients, step
from tests.models import CASES, random_adapter

EXPECTED = 100


def make_optimizer(norm: AdaptiveNorm, *, clipping_norm: float = 1.0) -> PrivateOptimizer:
    parameters = [torch.nn.Parameter(torch.zeros(4, 3)), torch.nn.Parameter(torch.zeros(5))]
    plan = SampledPlan(
        mechanism=NO_NOISE, clipping_norm=clipping_norm, sampling_rate=0.1, steps=1, delta=1e-5
    )
    optimizer = PrivateOptimizer(
        torch.optim.SGD(parameters, lr=1.0), plan=plan, expected_batch_size=EXPECTED, adaptive=norm
    )
    optimizer.source = keyed_source(0, "optimizer")
    return optimizer


def moved(optimizer: PrivateOptimizer) -> torch.Tensor:
    return torch.cat([-p.detach().flatten() for p in optimizer.params])


def norm_at(value: float, quantile: float = 0.5) -> AdaptiveNorm:
    return AdaptiveNorm(quantile=quantile, value=value)


def test_a_plan_for_another_norm_than_one_is_refused() -> None:
    with pytest.raises(PrivacyUnitError, match="clipping_norm=1 with a norm that follows"):
        make_optimizer(norm_at(2.0), clipping_norm=2.0)


def test_it_moves_by_the_published_rule() -> None:
    # 80 of 100 within and 20 beyond: 0.3 too many, at a rate of 4 in the first step and of 2 in the next.
    first = norm_at(2.0).after(60.0, expected=100)
    assert first.value == pytest.approx(2.0 * math.exp(-4 * 0.3))
    second = first.after(-100.0, expected=100)
    assert (second.value, second.steps) == (pytest.approx(first.value * math.exp(2 * 0.5)), 2)
    late = AdaptiveNorm(quantile=0.9, value=1.0, steps=100).after(60.0, expected=100)
    assert late.value == pytest.approx(math.exp(0.5 * 0.1))


def test_noise_moves_it_no_further_than_a_count_could() -> None:
    assert norm_at(1.0).after(1e9, expected=100) == norm_at(1.0).after(100.0, expected=100)
    assert norm_at(1e-6).after(1e9, expected=100).value == 1e-6
    assert norm_at(1e6).after(-1e9, expected=100).value == 1e6


@pytest.mark.parametrize(
    ("start", "quantile"), [(0.01, 0.5), (1.0, 0.5), (100.0, 0.5), (0.01, 0.3), (1.0, 0.3), (1.0, 0.8)]
)
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_it_comes_to_the_quantile_from_a_hundred_times_too_low_or_high(
    start: float, quantile: float, spread: float
) -> None:
    """Norms are lognormal. After 24 steps it is off by what one step moves it, and by noise."""
    rng = np.random.default_rng(0)
    expected = math.exp(spread * {0.3: -0.5244, 0.5: 0.0, 0.8: 0.8416}[quantile])
    norm, found = AdaptiveNorm(quantile=quantile, value=start), []
    for _ in range(24):
        norms = np.exp(spread * rng.standard_normal(256))
        within = int((norms <= norm.value).sum())
        norm = norm.after(2 * within - 256 + 8 * rng.standard_normal(), expected=256)
        found.append(math.log(norm.value / expected))
    assert np.abs(found[-8:]).max() < 0.45


# Steps.


@pytest.mark.parametrize("times", [1e-3, 1.0, 1e3])
def test_a_step_is_the_same_in_whatever_units(times: float) -> None:
    gradients = [times * gradient for gradient in random_gradients(6)]
    optimizer, reference = make_optimizer(norm_at(20.0 * times)), make_optimizer(norm_at(20.0))
    step(optimizer, gradients)
    step(reference, random_gradients(6))
    torch.testing.assert_close(moved(optimizer), moved(reference), rtol=1e-5, atol=1e-7)
    assert optimizer.adaptive is not None
    assert reference.adaptive is not None
    assert optimizer.adaptive.value == pytest.approx(times * reference.adaptive.value)


def test_no_example_moves_the_weights_by_more_than_the_rate() -> None:
    optimizer = make_optimizer(norm_at(1e-3))
    step(optimizer, random_gradients(1))
    assert 0.99 < EXPECTED * float(moved(optimizer).norm()) <= 1.0


def test_physical_batches_are_one_step() -> None:
    gradients = random_gradients(6)
    whole, parts = make_optimizer(norm_at(40.0)), make_optimizer(norm_at(40.0))
    step(whole, gradients)
    step(parts, [g[:2] for g in gradients], [g[2:] for g in gradients])
    assert whole.adaptive == parts.adaptive != norm_at(40.0)
    torch.testing.assert_close(moved(whole), moved(parts), rtol=0, atol=0)


# Training.


def trained(**changes: Any) -> np.ndarray:
    case = CASES["llama-qv"]
    trainer = Trainer(HookedGradients(case.adapted(strategy={"name": "ffa"})))
    plan = SampledPlan(
        mechanism=Mechanism(name="gaussian", multiplier=0.01),
        clipping_norm=1.0,
        sampling_rate=1.0,
        steps=8,
        delta=1e-5,
    )
    values = {
        "training": TrainingSection(rounds=2, local_steps=3, batch_size=4, physical_batch_size=2),
        "adaptive": norm_at(1e-3),
    }
    update = trainer.train(
        random_adapter(trainer.adapted),
        case.examples((3, 5, 7, 9)),
        plan=plan,
        round_number=1,
        entropy=keyed_entropy(7, "site"),
        activations=None,
        **values | changes,
    )
    assert len(update) == trainer.adapted.layout.update_size + (2 if changes.get("adaptive", 1) else 0)
    return update


def test_a_round_tells_the_norm_that_the_next_one_begins_with() -> None:
    value, steps = trained()[-2:]
    assert steps == 3
    assert value > 1e-3  # every gradient is longer
    trained(adaptive=None)


# The check before a run.


def without_noise_on_the_count(mechanism: Mechanism, clipped: Any, source: Any) -> Any:
    found = release(mechanism, clipped, source)
    return Counted(tensors=found.tensors, excess=0.0) if isinstance(clipped, CountedSum) else found


def with_a_quarter_on_the_sum(mechanism: Mechanism, clipped: Any, source: Any) -> Any:
    found = release(mechanism, clipped, source)
    if isinstance(clipped, ClippedSum):
        return found
    return Counted(tensors=tuple(tensor / 4 for tensor in found.tensors), excess=found.excess)


release = Mechanism.release


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (without_noise_on_the_count, "the count that moves the clipping norm is released without noise"),
        (with_a_quarter_on_the_sum, r"a step with a count: the noise of a step is 0\.2\d* times as wide"),
    ],
)
def test_the_unit_check_refuses_a_count_or_a_sum_without_its_noise(
    fault: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mechanism, "release", fault)
    with pytest.raises(PrivacyUnitError, match=said):
        check_noise(CASES["llama-qv"].adapted(), Mechanism(name="gaussian", multiplier=1.0))
