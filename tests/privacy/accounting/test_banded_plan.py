"""Plans with bands: their ε is no less than what a brute-force computation finds."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from numpy.typing import NDArray

from privacy.accounting.band_design import _objective, design_bands, step_noise, weighted_noise
from privacy.accounting.banded_plan import BandedPlan, make_banded_plan
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.accounting.second_accountant import epsilon_by_fft
from privacy.canonical import canonical_json
from privacy.errors import PlanError
from privacy.ledger.entries import from_table, to_table
from privacy.mechanisms.banded_noise import ONE
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism

PLAN = BandedPlan(
    mechanism=Mechanism(name="gaussian", multiplier=0.9),
    clipping_norm=1.0,
    sampling_rate=0.4,
    steps=3,
    delta=0.02,
    coefficients=(ONE, 2600),
)
WANTED = {
    "weights": np.ones(24),
    "epsilon": 3.0,
    "delta": 1e-5,
    "clipping_norm": 1.0,
    "expected_batch_size": 256,
    "examples": 9164,
}


def brute_force_delta(plan: BandedPlan, group: int, *, epsilon: float, rate: float, norm: float) -> float:
    """The larger hockey-stick divergence of what an example of a group does to Cx + z, on a grid in ℝ³.

    From the definition: each row of Cx + z is a coordinate with its own noise, whose deviation is the
    multiplier times ``norm``; the example is in each step of its group with probability ``rate``, and adds
    its column of C there. Midpoints of cells a twelfth of a deviation wide, out to 7: off by under 1e-4.
    """
    sigma = plan.mechanism.multiplier * norm
    points = np.arange(-7 * sigma, 7 * sigma + 1.0, sigma / 12)

    def density(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        one = [np.exp(-0.5 * ((points - s) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) for s in shift]
        return np.einsum("i,j,k->ijk", *one)

    columns = [
        np.array([plan.coefficients[row - step] / ONE if 0 <= row - step < 2 else 0.0 for row in range(3)])
        for step in range(group, 3, 2)
    ]
    without = density(np.zeros(3))
    present = np.zeros_like(without)
    for taken in np.ndindex(*[2] * len(columns)):
        chance = math.prod(rate if one else 1.0 - rate for one in taken)
        shift = sum((one * column for one, column in zip(taken, columns, strict=True)), np.zeros(3))
        present += chance * density(shift)
    cell = (sigma / 12) ** 3
    ways = ((present, without), (without, present))
    return max(float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum() * cell) for p, q in ways)


NORM = float(np.linalg.norm(np.array(PLAN.coefficients) / ONE))


def test_epsilon_is_no_less_than_brute_force_finds() -> None:
    """Of three steps the first group's examples are in two, the second of which tells a little less."""
    for group in (0, 1):
        found = brute_force_delta(PLAN, group, epsilon=PLAN.epsilon, rate=0.4, norm=NORM)
        assert found <= PLAN.delta + 1e-4
    # Of two steps the first column is whole, and the two computations agree.
    two = replace(PLAN, steps=2)
    assert brute_force_delta(two, 1, epsilon=two.epsilon, rate=0.4, norm=NORM) <= two.delta + 1e-4
    first = replace(PLAN, steps=1)
    alone = brute_force_delta(replace(PLAN, steps=2), 1, epsilon=first.epsilon, rate=0.4, norm=NORM)
    assert alone == pytest.approx(first.delta, rel=0.02)


def test_broken_plans_are_caught_by_brute_force() -> None:
    # The batch's rate in place of the group's, which is twice as high.
    low = replace(PLAN, sampling_rate=0.2)
    assert brute_force_delta(PLAN, 0, epsilon=low.epsilon, rate=0.4, norm=NORM) > 1.5 * PLAN.delta
    # Noise for one row of the column in place of all.
    assert brute_force_delta(PLAN, 0, epsilon=PLAN.epsilon, rate=0.4, norm=1.0) > 1.2 * PLAN.delta
    # One draw in place of two.
    once = replace(PLAN, steps=1)
    assert brute_force_delta(PLAN, 0, epsilon=once.epsilon, rate=0.4, norm=NORM) > 1.2 * PLAN.delta


def test_an_example_is_drawn_in_every_so_many_steps() -> None:
    assert [PLAN.draws(steps) for steps in range(6)] == [0, 1, 1, 2, 2, 3]
    assert PLAN.epsilon_after(1) == PLAN.epsilon_after(2) < PLAN.epsilon_after(3) == PLAN.epsilon


def test_epsilon_is_that_of_as_many_draws_by_two_other_accountants() -> None:
    plan = make_banded_plan(bands=8, **WANTED)
    assert (plan.bands, plan.draws(plan.steps)) == (8, 3)
    assert plan.sampling_rate == pytest.approx(8 * 256 / 9164)
    step = dp.PoissonSampledDpEvent(plan.sampling_rate, plan.mechanism.event)
    google = PLDAccountant().compose(dp.SelfComposedDpEvent(step, 3)).get_epsilon(plan.delta)
    assert plan.epsilon == pytest.approx(google, rel=2e-3)
    second = epsilon_by_fft(
        mechanism=plan.mechanism, sampling_rate=plan.sampling_rate, steps=3, delta=plan.delta
    )
    assert plan.epsilon == pytest.approx(second, rel=0.01)
    assert 0.99 * 3.0 < plan.epsilon <= 3.0


def test_one_band_is_dp_sgd() -> None:
    plain = {name: value for name, value in WANTED.items() if name != "weights"}
    assert make_banded_plan(bands=1, **WANTED) == make_sampled_plan(mechanism="gaussian", steps=24, **plain)


def test_the_demo_has_two_thirds_of_the_noise() -> None:
    """24 steps of 256 of 9,164 examples at ε = 3, rates falling in a line: 0.643 with 8 bands."""
    weights = np.linspace(1.0, 0.0, 24, endpoint=False)
    wanted = WANTED | {"weights": weights}
    best, plain = make_banded_plan(bands=None, **wanted), make_banded_plan(bands=1, **wanted)
    assert isinstance(best, BandedPlan)
    assert best.bands == 8
    assert best.noise_of_sum(weights) / plain.noise_of_sum(weights) == pytest.approx(0.643, abs=0.005)


def test_where_bands_gain_nothing_there_is_one() -> None:
    """At ε = 0.3 with a quarter of the examples in each batch, sampling is worth more than correlation."""
    found = make_banded_plan(bands=None, **WANTED | {"epsilon": 0.3, "expected_batch_size": 2291})
    assert type(found) is SampledPlan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": 36}, "bands=36"),
        ({"bands": 25}, "<= steps=24"),
        ({"bands": 2, "delta": 0.9}, "the chance that an example is drawn"),
        ({"bands": 2, "expected_batch_size": 10**4}, "batch_size <= examples"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_banded_plan(**WANTED | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"mechanism": NO_NOISE},
        {"mechanism": Mechanism(name="laplace", multiplier=1.0)},
        {"coefficients": (ONE,)},
        {"coefficients": (ONE, ONE + 1)},
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        replace(PLAN, **changes)


def test_a_plan_is_read_as_it_was_written() -> None:
    table = json.loads(canonical_json(to_table(PLAN)))
    assert from_table(BandedPlan, table) == PLAN
    with pytest.raises(ValueError, match="expected"):
        from_table(BandedPlan, table | {"coefficients": [ONE, 2600.0]})
    with pytest.raises(ValueError, match="fields of SampledPlan"):
        from_table(SampledPlan, table)


def test_the_designs_derivative_is_its_own() -> None:
    back, weights = np.array([0.6, 0.5, 0.2]), np.linspace(1.0, 0.2, 12)
    _, slopes = _objective(back, weights)
    for place, slope in enumerate(slopes):
        moved = 1e-6 * np.eye(3)[place]
        rise = _objective(back + moved, weights)[0] - _objective(back - moved, weights)[0]
        assert slope == pytest.approx(rise / 2e-6, rel=1e-5)


@pytest.mark.parametrize(("steps", "bands"), [(24, 2), (24, 8), (300, 16), (5000, 4)])
def test_the_design_is_better_than_the_square_root_and_than_its_neighbours(steps: int, bands: int) -> None:
    weights = np.linspace(1.0, 0.0, steps, endpoint=False)
    best = design_bands(weights, bands=bands)
    root = np.cumprod([1.0, *((2 * j - 1) / (2 * j) for j in range(1, bands))])
    others = [tuple(int(one) for one in np.rint(root * ONE))]
    for place in range(1, bands):
        for change in (-128, 128):
            moved = [*best[:place], best[place] + change, *best[place + 1 :]]
            if sorted(moved, reverse=True) == moved and min(moved) >= 0 and max(moved) == ONE:
                others.append(tuple(moved))
    found = weighted_noise(best, weights)
    # More steps than 4,096 are stood for by so many.
    assert all(
        found <= weighted_noise(one, weights) * (1.0 + 2e-4 + 1e-3 * (steps > 4096)) for one in others
    )


def test_the_noisiest_step_is_the_last() -> None:
    """By the matrix written out."""
    coefficients, steps = (ONE, 3000, 2000), 9
    c = sum(np.diag(np.full(steps - j, one / ONE), -j) for j, one in enumerate(coefficients))
    rows = np.linalg.norm(np.linalg.inv(c), axis=1) * np.linalg.norm(np.array(coefficients) / ONE)
    assert step_noise(coefficients, steps) == pytest.approx(rows.max())
    assert rows.max() == rows[-1]
