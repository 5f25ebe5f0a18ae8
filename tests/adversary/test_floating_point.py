"""One noisy step must not tell with certainty who was in it: rounding leaves no output impossible.

The attacker knows the target's clipped gradient and that everybody else's is zero. With noise in float32
that is added to a float32 sum, some outputs cannot occur if the target is in the sum; one that does occur
proves that it is not (Mironov 2012; Haney et al. 2022, arXiv:2112.05307). Each test counts such outputs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from privacy.mechanisms import MechanismName
from privacy.noise import fresh_source
from privacy.plan import make_plan
from tests.client.optimizers import make_optimizer, released, step

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
    """Whether two counts may be of one rate: once in a million such pairs this says no."""
    both = first + second
    return both == 0 or float(stats.binomtest(first, both).pvalue) > 1e-6


def multiplier(mechanism: MechanismName, epsilon: float) -> float:
    plan = make_plan(
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
    print(mechanism, epsilon, there, away)
    assert same_rate(there, away), f"impossible outputs: {there} with the target, {away} without"


def test_the_attack_reads_noise_that_is_made_of_floats() -> None:
    """What it is up against: noise in float64, rounded to float32 and added to a float32 sum."""
    generator = np.random.default_rng(0)
    gradient = np.linspace(0.5, 1.0, 10_000).astype(np.float32)
    noise = generator.normal(0.0, 3.0, (2, len(gradient))).astype(np.float32)
    there, away = impossible(gradient + noise[0], gradient), impossible(noise[1], gradient)
    assert there == 0
    assert not same_rate(there, away)
