"""Mistakes in a private training that the audit must find, and what is right, which it must not flag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.audit.many_runs import Hits, many_runs_bound
from privacy.audit.poisson_draws import draws_p_value
from privacy.mechanisms.clipping import clip_rows
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from simulation.attack.attack_bounds import Bound, find_bounds
from tests.simulation.attack.releases import STEPS, Training, clip_tokens, plan, shuffled

ERROR = 0.05


def best(training: Training, *, seed: int = 0, multiplier: float = 0.8) -> tuple[Bound, float]:
    """The largest bound that is found, and what the plan claims."""
    planned = plan(multiplier)
    seen, canaries = training.run(planned, seed=seed)
    bounds = find_bounds([seen], canaries, planned, error=ERROR)
    return max(bounds, key=lambda bound: bound.epsilon), planned.epsilon


MISTAKES = {
    "a quarter of the noise": (Training(noise=0.25), "all releases"),
    "clipping by the token": (Training(clip=clip_tokens), "all releases"),
    "no noise in one tensor": (Training(noisy=(True, False)), "second"),
    "a seed of noise used twice": (Training(stream=lambda step: min(step, STEPS - 2)), "releases 7 and 8"),
    "noise that begins again": (Training(stream=lambda step: step % (STEPS - 1)), "releases 1 and 8"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(name: str) -> None:
    training, where = MISTAKES[name]
    found, claimed = best(training)
    assert found.epsilon > claimed, (found, claimed)
    assert (found.form, found.of) == ("gaussian", where)


def test_what_is_right_is_not_flagged() -> None:
    """Of 12 right trainings 4 would be flagged in under 0.3 % of such tests, if 5 % were."""
    found = [best(Training(), seed=seed) for seed in range(1, 13)]
    assert sum(bound.epsilon > claimed for bound, claimed in found) < 4
    # It is no bound that cannot be exceeded: what is shown is near what is claimed.
    assert np.mean([bound.epsilon / claimed for bound, claimed in found]) > 0.6


def test_two_thirds_of_the_noise_are_found_and_nearly_all_is_not() -> None:
    """The least mistake that 400 canaries in 8 releases show, from which docs/audit.md reckons others."""
    found, claimed = best(Training(noise=2 / 3))
    assert found.epsilon > claimed
    found, claimed = best(Training(noise=0.95))
    assert found.epsilon < claimed


@pytest.mark.parametrize("multiplier", [0.4, 0.8, 2.0])
def test_shuffling_is_not_told_from_poisson_sampling(multiplier: float) -> None:
    """What an audit of one run cannot find: forms that assume nothing show too little.

    The one that shows enough takes the plan's word for how examples are drawn.
    """
    found, claimed = best(Training(draw=shuffled), multiplier=multiplier)
    assert found.epsilon < claimed


def test_shuffling_is_told_by_the_draws() -> None:
    planned = plan()
    drawn = [
        draws_p_value(training.draws(planned, seed=1), steps=STEPS, rate=planned.sampling_rate)
        for training in (Training(draw=shuffled), Training())
    ]
    assert drawn[0] < 1e-6
    assert drawn[1] > 0.001


def hits(denominator: Callable[[int], int], *, runs: int, multiplier: float) -> Hits:
    """An attack on single steps over two examples and the canary: by how wide the noise is.

    It is measured where no gradient is. The threshold is between what two and three as denominators make
    of it.
    """
    mechanism, size, bound = Mechanism(name="gaussian", multiplier=multiplier), 500, 1.0
    called = np.zeros(runs, bool)
    present = np.random.default_rng(7).random(runs) < 0.5
    for run in range(runs):
        rows: NDArray[np.float64] = np.zeros((2 + present[run], size))
        rows[:, 0] = 1.0
        clipped = clip_rows(rows, bound=bound, norm=2)
        released = mechanism.release(clipped, keyed_source(7, "denominator", run))
        width = float(np.std(released[1:])) / denominator(len(rows))
        called[run] = width < multiplier * bound * 0.5 * (1 / 2 + 1 / 3)
    return Hits(
        runs_in=int(present.sum()),
        hits_in=int(called[present].sum()),
        runs_out=int((~present).sum()),
        hits_out=int(called[~present].sum()),
    )


def test_the_batchs_own_size_as_denominator_is_found_by_many_runs() -> None:
    """The noise is right, but divided by how many there are: its width tells whether one is in."""
    epsilon, multiplier = 1.0, 3.730632  # at δ = 1e-5
    wrong = hits(lambda drawn: drawn, runs=300, multiplier=multiplier)
    assert many_runs_bound(wrong, delta=1e-5, error=ERROR) > 3 * epsilon
    right = hits(lambda _drawn: 3, runs=300, multiplier=multiplier)
    assert many_runs_bound(right, delta=1e-5, error=ERROR) < epsilon
