"""Composed losses against the exact ε, at sizes that no numbers exceed."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from privacy.accounting.accountant import epsilon_by_pld, epsilon_by_rdp, training_event
from privacy.accounting.composition import Losses
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.accounting.second_accountant import epsilon_by_fft
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism


def noise(name: str, multiplier: float) -> Mechanism:
    return Mechanism(name=name, multiplier=multiplier)


def exact_gaussian(sigma: float, delta: float) -> float:
    """ε of one Gaussian release (Balle and Wang 2018, arXiv:1805.06530, Theorem 8)."""

    def excess(epsilon: float) -> float:
        above = log_ndtr(0.5 / sigma - epsilon * sigma)
        below = epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)
        return float(above + math.log(-math.expm1(min(below - above, -1e-300)) or 1e-300) - math.log(delta))

    if excess(0.0) <= 0.0:
        return 0.0
    high = 1.0
    while excess(high) > 0.0:
        high *= 2.0
    return float(brentq(excess, 0.0, high, xtol=1e-12))


@settings(max_examples=60, deadline=None)
@given(
    sigma=st.floats(-8.0, 13.0).map(lambda x: 2.0**x),
    steps=st.floats(0.0, 7.0).map(lambda x: int(10**x)),
    delta=st.floats(-9.0, -0.4).map(lambda x: 10**x),
)
def test_no_numbers_give_less_than_the_exact_loss(sigma: float, steps: int, delta: float) -> None:
    """At rate 1 so many steps are one with √steps times less noise."""
    found = epsilon_by_pld(mechanism=noise("gaussian", sigma), sampling_rate=1.0, steps=steps, delta=delta)
    exact = exact_gaussian(sigma / math.sqrt(steps), delta)
    assert found >= exact * (1 - 1e-9)
    if 0.01 < exact < 300 and 0.05 < sigma < 100 and steps < 1e5:
        assert found <= 1.05 * exact


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    ("name", "multiplier", "rate", "steps", "delta"),
    [
        ("gaussian", 0.24, 0.001, 10_000, 1e-5),
        ("gaussian", 0.6, 0.1, 100, 1e-9),
        ("gaussian", 1.0, 0.01, 100_000, 1e-9),
        ("gaussian", 0.15, 1e-6, 1000, 9e-4),
        ("laplace", 0.1, 0.001, 10_000, 1e-9),
        ("laplace", 0.5, 0.3, 20, 1e-6),
        ("laplace", 0.0078, 1e-6, 1000, 9e-4),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # the other accountant's, far above
def test_what_was_dear_is_as_another_accountant_finds_it(
    name: str, multiplier: float, rate: float, steps: int, delta: float
) -> None:
    run = {"mechanism": noise(name, multiplier), "sampling_rate": rate, "steps": steps, "delta": delta}
    found, other = epsilon_by_pld(**run), epsilon_by_fft(**run)
    assert 0.985 * other - 1e-4 <= found <= 1.02 * other + 1e-4


@pytest.mark.parametrize(
    ("name", "multiplier", "rate", "steps"),
    [("gaussian", 1.24, 0.128, 20), ("gaussian", 0.8, 0.02, 500), ("laplace", 1.0, 0.01, 1000)],
)
def test_ordinary_runs_cost_what_dp_accounting_composes(
    name: str, multiplier: float, rate: float, steps: int
) -> None:
    event = training_event(mechanism=noise(name, multiplier), sampling_rate=rate, steps=steps)
    theirs = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3).compose(event).get_epsilon(1e-5)
    ours = epsilon_by_pld(mechanism=noise(name, multiplier), sampling_rate=rate, steps=steps, delta=1e-5)
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Points of each composition, and of the step that it is of."""
    found = []
    compose = Losses.epsilon

    def watch(self: Losses, window: tuple[int, int], **options: Any) -> float:
        found.append((window[1] - window[0] + 1, len(self.masses)))
        return compose(self, window, **options)

    monkeypatch.setattr(Losses, "epsilon", watch)
    return found


@pytest.mark.exhaustive(but=4)
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("rate", [1.0, 0.999, 0.3, 1e-3, 1e-7])
@pytest.mark.parametrize("steps", [1, 1000, 10**6, 10**9])
def test_no_numbers_make_it_large(sizes: list[tuple[int, int]], name: str, rate: float, steps: int) -> None:
    epsilon_by_pld.cache_clear()
    for multiplier in (2.0**-8, 0.02, 0.05, 0.25, 1.0, 30.0, 1e4):
        found = epsilon_by_pld(
            mechanism=noise(name, multiplier), sampling_rate=rate, steps=steps, delta=1e-9
        )
        assert 0.0 <= found < math.inf
    assert max((window for window, _ in sizes), default=0) <= 2**18
    # Beyond 10 deviations on both sides, and a few points that are rounded outwards.
    assert max((step for _, step in sizes), default=0) <= 2**14 + 2**10


def test_where_nothing_can_be_composed_the_bound_is_by_order() -> None:
    run = {"mechanism": noise("gaussian", 0.01), "sampling_rate": 1.0, "steps": 1000, "delta": 1e-5}
    assert epsilon_by_pld(**run) >= exact_gaussian(0.01 / math.sqrt(1000), 1e-5)
    assert epsilon_by_pld(**run) >= epsilon_by_rdp(**run)


def test_rounds_cost_more_and_more_also_by_order() -> None:
    run = {"mechanism": noise("gaussian", 0.05), "sampling_rate": 1.0, "delta": 1e-5, "horizon": 10_000}
    found = [epsilon_by_pld(**run, steps=steps) for steps in (0, 1, 10, 100, 1000, 10_000)]
    assert found == sorted(found)


def coin(*, infinite: float = 0.0) -> Losses:
    """A loss of 0.01 nats, up or down."""
    masses = np.array([0.5, 0.0, 0.5]) * (1.0 - infinite)
    return Losses(grid=0.01, first=-1, masses=masses, infinite=infinite)


def test_what_floats_add_up_to_is_added_to_delta() -> None:
    """A transform is off by 2^-53; its power by a billion times as much."""
    for steps, finite in ((100, True), (10**9, False)):
        losses = coin()
        found = losses.epsilon(losses.window(steps), steps=steps, delta=1e-8)
        assert math.isfinite(found) == finite


@pytest.mark.parametrize(("delta", "finite"), [(9.9e-4, False), (1.1e-3, True)])
def test_infinite_losses_add_up(delta: float, finite: bool) -> None:
    losses = coin(infinite=1e-5)
    found = losses.epsilon(losses.window(100), steps=100, delta=delta)
    assert math.isfinite(found) == finite


def test_a_composition_is_a_binomial() -> None:
    """δ(ε) of a hundred coins, summed up by hand."""
    losses, steps, delta = coin(), 100, 1e-3
    epsilon = losses.epsilon(losses.window(steps), steps=steps, delta=delta)
    ways = [math.comb(steps, heads) / 2**steps for heads in range(steps + 1)]
    sums = [0.01 * (2 * heads - steps) for heads in range(steps + 1)]
    spent = sum(
        way * -math.expm1(epsilon - total) for way, total in zip(ways, sums, strict=True) if total > epsilon
    )
    assert spent == pytest.approx(delta, rel=1e-6)


def asked(**changes: Any) -> dict[str, Any]:
    return {
        "mechanism": "gaussian",
        "epsilon": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "expected_batch_size": 1,
        "examples": 10_000,
        "steps": 3,
    } | changes


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("delta", [3e-4, 1e-3, 0.4])
def test_a_delta_that_covers_all_who_are_drawn_is_refused(mechanism: str, delta: float) -> None:
    with pytest.raises(PlanError, match=r"expected delta < 0\.0003, the chance .*lower privacy\.delta"):
        make_sampled_plan(**asked(mechanism=mechanism, delta=delta))
    assert make_sampled_plan(**asked(mechanism="none", delta=delta)).epsilon == math.inf


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_a_delta_just_below_that_finds_its_noise(mechanism: str) -> None:
    plan = make_sampled_plan(**asked(mechanism=mechanism, delta=2.999e-4, epsilon=100.0))
    assert 2.0**-8 <= plan.mechanism.multiplier < 0.1
    assert plan.epsilon <= 100.0


def test_the_chance_of_being_drawn() -> None:
    silent = make_sampled_plan(**asked(mechanism="none"))
    assert silent.chance_of_being_drawn == pytest.approx(1 - (1 - 1e-4) ** 3)
    whole = SampledPlan(
        mechanism=silent.mechanism, clipping_norm=1.0, sampling_rate=1.0, steps=10**6, delta=1e-5
    )
    assert whole.chance_of_being_drawn == 1.0
