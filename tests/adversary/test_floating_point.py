"""One noisy step must not tell with certainty who was in it: rounding leaves no output impossible.

The attacker knows the target's clipped gradient and that everybody else's is zero. With noise in float32
that is added to a float32 sum, some outputs cannot occur if the target is in the sum; one that does occur
proves that it is not (Mironov 2012; Haney et al. 2022, arXiv:2112.05307). Each test counts such outputs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from client.training.gradients import HookedGradients
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism, MechanismName
from privacy.mechanisms.rng import fresh_entropy, fresh_source
from protocol.job.job import TrainingSection
from tasks.data.examples import Examples
from tests.client.optimizers import make_optimizer, released, step
from tests.models import CASES, random_adapter

# How many numbers a step releases, and how many steps are attacked: 2 · 10^5 numbers of each mechanism. In
# L1 the norm is soon used up, and few numbers a step are long enough to tell; in L2 many are.
SIZES = {"gaussian": (25_000, 8), "laplace": (1_000, 200)}


def impossible(outputs: NDArray[np.floating], gradient: NDArray[np.floating]) -> int:
    """How many outputs no float32 noise makes of this gradient in float32 arithmetic."""
    outputs, gradient = outputs.astype(np.float32), gradient.astype(np.float32)
    noise = (outputs.astype(np.float64) - gradient.astype(np.float64)).astype(np.float32)
    candidates = [noise, np.nextafter(noise, np.float32(np.inf)), np.nextafter(noise, np.float32(-np.inf))]
    explained = np.zeros(len(outputs), bool)
    for candidate in candidates:
        explained |= gradient + candidate == outputs
    return int((~explained).sum())


def same_rate(first: int, second: int) -> bool:
    """Whether two counts may be of one rate: once in a billion such pairs this says no."""
    both = first + second
    return both == 0 or float(stats.binomtest(first, both).pvalue) > 1e-9


def multiplier(mechanism: MechanismName, epsilon: float) -> float:
    plan = make_sampled_plan(
        mechanism=mechanism,
        epsilon=epsilon,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=64,
        examples=256,
        steps=1,
    )
    return plan.mechanism.multiplier


def counted(mechanism: MechanismName, epsilon: float, gradient: NDArray[np.float32], *, drawn: bool) -> int:
    """Impossible outputs over the steps, with the target's gradient in each sum or with nobody's."""
    rows = torch.from_numpy(gradient)[None][: int(drawn)]
    found, noise = 0, multiplier(mechanism, epsilon)
    for _ in range(SIZES[mechanism][1]):
        optimizer = make_optimizer(
            shapes=(gradient.shape,), mechanism=mechanism, multiplier=noise, source=fresh_source()
        )
        step(optimizer, [rows])
        found += impossible(released(optimizer), gradient)
    return found


@pytest.mark.exhaustive(but=2)
@pytest.mark.parametrize("epsilon", [8.0, 1.0, 0.1])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_no_output_of_a_step_excludes_an_example(mechanism: MechanismName, epsilon: float) -> None:
    size = SIZES[mechanism][0]
    gradient = np.linspace(0.5, 1.0, size)
    gradient = (0.99 * gradient / np.linalg.norm(gradient, 1 if mechanism == "laplace" else 2)).astype(
        np.float32
    )
    there = counted(mechanism, epsilon, gradient, drawn=True)
    away = counted(mechanism, epsilon, gradient, drawn=False)
    assert same_rate(there, away), f"impossible outputs: {there} with the target, {away} without"


def test_the_attack_reads_noise_that_is_made_of_floats() -> None:
    """What it is up against: noise in float64, rounded to float32 and added to a float32 sum."""
    generator = np.random.default_rng(0)
    gradient = np.linspace(0.5, 1.0, 10_000).astype(np.float32)
    noise = generator.normal(0.0, 3.0, (2, len(gradient))).astype(np.float32)
    there, away = impossible(gradient + noise[0], gradient), impossible(noise[1], gradient)
    assert there == 0
    assert not same_rate(there, away)


# A crafted adapter: the head is sure of one label, so an example that has it has no gradient at all, and
# the target, which has another, is alone in every sum.
CASE = CASES["bert-qv-head"]
STEPS_TAKEN = 50


def crafted(trainer: Trainer) -> NDArray[np.float32]:
    layout = trainer.adapted.layout
    tensors = {
        name: tensor.copy() for name, tensor in layout.split(random_adapter(trainer.adapted)).items()
    }
    for name, tensor in tensors.items():
        if ".lora_B." in name:
            tensor[:] = 0.0  # the update is then the step itself, without a rounding of ours
        if name.endswith("classifier.bias"):
            tensor[:] = [1e4, -1e4, -1e4]
    return layout.join(tensors)


def an_update(trainer: Trainer, examples: Examples, plan: SampledPlan) -> NDArray[np.float32]:
    """What a site's step from the crafted adapter moves in LoRA's second factors."""
    update = trainer.train(
        crafted(trainer),
        examples,
        training=TrainingSection(batch_size=8, physical_batch_size=8, learning_rate=1.0),
        plan=plan,
        round_number=1,
        entropy=fresh_entropy,
        activations=None,
    )
    ends = np.cumsum([p.numel() for p in trainer.adapted.trained.values()])
    parts = dict(zip(trainer.adapted.trained, np.split(update, ends[:-1]), strict=True))
    return np.concatenate([part for name, part in parts.items() if ".lora_B." in name])


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_a_crafted_adapter_makes_no_output_exclude_an_example(epsilon: float) -> None:
    trainer = Trainer(HookedGradients(CASE.adapted(strategy={"name": "ffa"})))
    examples = CASE.examples([6] * 8)
    sure = replace(examples, labels=np.zeros(8, np.int64))
    target = replace(examples, labels=np.array([1, *[0] * 7]))
    silent = SampledPlan(mechanism=NO_NOISE, clipping_norm=1.0, sampling_rate=1.0, steps=1, delta=1e-5)
    assert not an_update(trainer, sure, silent).any()
    gradient = an_update(trainer, target, silent)
    assert np.count_nonzero(gradient) > 50

    noisy = replace(
        silent, mechanism=Mechanism(name="gaussian", multiplier=multiplier("gaussian", epsilon))
    )
    counts = [
        sum(impossible(an_update(trainer, drawn, noisy), gradient) for _ in range(STEPS_TAKEN))
        for drawn in (target, sure)
    ]
    print(counts)
    assert same_rate(*counts), f"impossible outputs: {counts[0]} with the target, {counts[1]} without"
