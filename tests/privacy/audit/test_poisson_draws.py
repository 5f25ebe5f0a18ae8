"""How often examples were drawn: Poisson samples pass as often as they should, and others do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.audit.poisson_draws import draws_p_value
from privacy.errors import AuditError

RATE, STEPS, EXAMPLES = 0.25, 8, 400


def poisson(seed: int, *, rate: float = RATE, steps: int = STEPS) -> NDArray[np.int64]:
    return np.random.default_rng(seed).binomial(steps, rate, EXAMPLES)


def by_weight(seed: int) -> NDArray[np.int64]:
    """A quarter at more than three times the rate of the others, whose mean is the plan's."""
    heavy, light = poisson(seed, rate=0.55)[:100], poisson(seed + 1, rate=0.15)[:300]
    return np.concatenate([heavy, light])


def in_turn(seed: int, *, steps: int) -> NDArray[np.int64]:
    """Shuffled batches of a quarter of all examples."""
    whole, rest = divmod(steps, 4)
    return whole + (np.random.default_rng(seed).permutation(EXAMPLES) < rest * EXAMPLES // 4)


def test_poisson_samples_pass() -> None:
    """Of 100 p-values 5 at most are under 0.05 in the mean; more than 13 would come once in a thousand."""
    found = [draws_p_value(poisson(seed), steps=STEPS, rate=RATE) for seed in range(100)]
    assert sum(p < 0.05 for p in found) <= 13
    assert min(found) > 1e-4


@pytest.mark.parametrize(
    ("draws", "steps"),
    [
        (poisson(1, rate=0.3), STEPS),
        (poisson(1, rate=0.2), STEPS),
        (by_weight(2), STEPS),
        (in_turn(3, steps=8), 8),
        (in_turn(3, steps=3), 3),
        (in_turn(3, steps=10), 10),
        (np.full(EXAMPLES, STEPS), STEPS),
    ],
    ids=["a higher rate", "a lower one", "weights", "two epochs", "under one", "over two", "everyone"],
)
def test_others_do_not(draws: NDArray[np.int64], steps: int) -> None:
    assert draws_p_value(draws, steps=steps, rate=RATE) < 0.001


def test_a_rate_of_one_draws_everyone() -> None:
    assert draws_p_value(np.full(20, 3), steps=3, rate=1.0) == 1.0
    assert draws_p_value(np.array([3] * 19 + [2]), steps=3, rate=1.0) < 0.01


def test_one_step_tells_its_rate_alone() -> None:
    assert draws_p_value(poisson(5, steps=1), steps=1, rate=RATE) > 0.01
    assert draws_p_value(poisson(5, steps=1, rate=0.4), steps=1, rate=RATE) < 0.01


@pytest.mark.parametrize("draws", [[], [-1, 2], [9, 1], [[1, 2]]], ids=["none", "below", "above", "rows"])
def test_counts_that_cannot_be_are_refused(draws: list[int]) -> None:
    with pytest.raises(AuditError, match="expected a count from 0 to steps=8"):
        draws_p_value(np.array(draws, np.int64), steps=STEPS, rate=RATE)
