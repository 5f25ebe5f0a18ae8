"""What an auditor can show of the mechanisms in one run, against what the accountant says."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.audit.guesses import Guesses
from privacy.audit.one_run import one_run_bound
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source

DELTA = 1e-5
CANARIES = 1000
REPEATS = 60
ERROR = 0.05  # one in twenty bounds may exceed ε
FRACTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CLIPPING_NORM = 0.5
# ε of one Gaussian release, mean lower bound over repeats; to be met within a tenth.
STEINKE = [(1.0, 0.22), (2.0, 0.64), (4.0, 1.50), (8.0, 2.91)]


@cache
def lower_bound(guesses: int, correct: int) -> float:
    """The largest ε that so many right guesses refute at 95 %."""
    made = Guesses(canaries=CANARIES, made=guesses, right=correct)
    return one_run_bound(made, delta=DELTA, error=ERROR)


def audit(mechanism: Mechanism) -> NDArray[np.float64]:
    """float64[repeats]: lower bounds at the number of guesses that is best in their mean.

    Each canary is a coordinate of its own, as large as clipping lets it be. The highest scores are guessed
    to be in, the lowest not. One number of guesses serves all repeats: the best of each would be no bound.
    """
    found = np.empty((REPEATS, len(FRACTIONS)))
    for repeat in range(REPEATS):
        source = keyed_source(11, mechanism.name, repeat)
        present = np.zeros(CANARIES, dtype=bool)
        present[source.poisson_sample(CANARIES, rate=0.5)] = True
        noise = mechanism.noise(CANARIES, steps=STEPS, source=source)
        order = np.argsort(STEPS * present + noise)
        for column, fraction in enumerate(FRACTIONS):
            half = int(fraction * CANARIES / 2)
            correct = int((~present[order[:half]]).sum() + present[order[-half:]].sum())
            found[repeat, column] = lower_bound(2 * half, correct)
    return found[:, found.mean(axis=0).argmax()]


def calibrated(epsilon: float, name: str = "gaussian") -> Mechanism:
    plan = make_sampled_plan(
        mechanism=name,
        epsilon=epsilon,
        delta=DELTA,
        clipping_norm=CLIPPING_NORM,
        expected_batch_size=1,
        examples=1,
        steps=1,
    )
    return plan.mechanism


@pytest.mark.parametrize(("epsilon", "expected"), STEINKE)
@pytest.mark.statistics(but=1)
def test_what_is_shown_is_near_the_reference_and_below_epsilon(epsilon: float, expected: float) -> None:
    found = audit(calibrated(epsilon))
    # The mean of 60 has a standard error of 0.02 at ε = 1 and 0.05 at ε = 8: four of them.
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(REPEATS))
    assert found.max() <= epsilon


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_a_third_of_the_noise_is_caught(name: str) -> None:
    """Control: what is accounted as ε = 1 but has a third of its noise is refuted in most runs."""
    honest = calibrated(1.0, name)
    # One in twenty may exceed ε, and 9 or more of 60 do in under 1 % of audits.
    assert (audit(honest) > 1.0).sum() < 9
    quiet = Mechanism(name=name, multiplier=honest.multiplier / 3)
    assert (audit(quiet) > 1.0).mean() > 0.5
