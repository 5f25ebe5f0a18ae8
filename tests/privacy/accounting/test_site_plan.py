"""Plans that hide a whole site: what they refuse, what they cost, and the noise that sites share."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.accounting.accountant import epsilon_by_rdp
from privacy.accounting.central_site_plan import make_central_site_plan
from privacy.accounting.plan import SitePlan, summed_plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.accounting.shared_site_plan import SharedSitePlan, make_shared_site_plan
from privacy.errors import PlanError, PrivacyUnitError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism
from privacy.mechanisms.rng import keyed_source
from privacy.mechanisms.skellam import (
    IntegerSensitivity,
    SharedNoise,
    SkellamMechanism,
    rounded_sensitivity,
    scale_for_modulus,
)
from tests.privacy.ledgers import CENTRAL_PLAN, SITE_PLAN

SITES, DIMENSION, ROUNDS, DELTA = 10, 10**6, 50, 1e-5
ASKED: dict[str, Any] = {"epsilon": 8.0, "delta": DELTA, "clipping_norm": 0.5, "releases": ROUNDS}


def grid(bits: int, multiplier: float) -> IntegerSensitivity:
    """The finest grid on which the sum fits, and on which noise can be drawn: its σ is under 2^26."""
    scale = scale_for_modulus(
        bits=bits, sites=SITES, dimension=DIMENSION, clipping_norm=0.5, noise_multiplier=multiplier
    )
    return rounded_sensitivity(l2_bound=min(0.5 * scale, 2.0**25 / multiplier), dimension=DIMENSION)


def make(bits: int = 32, *, min_survivors: int = 7, colluding: int = 2, **changes: Any) -> SharedSitePlan:
    return make_shared_site_plan(
        **(ASKED | changes),
        sensitivity_of=lambda multiplier: grid(bits, multiplier),
        min_survivors=min_survivors,
        colluding=colluding,
    )


EXAMPLE_PLAN = SampledPlan(
    mechanism=CENTRAL_PLAN.mechanism, clipping_norm=1.0, sampling_rate=1.0, steps=4, delta=1e-7
)

# Refused.


@pytest.mark.parametrize(
    ("plan", "change", "named"),
    [
        (CENTRAL_PLAN, {"mechanism": Mechanism(name="laplace", multiplier=1.0)}, "expected Gaussian noise"),
        (CENTRAL_PLAN, {"clipping_norm": math.inf}, "got clipping_norm=inf"),
        (SITE_PLAN, {"steps": 0}, "got steps=0"),
        (SITE_PLAN, {"delta": 0.0}, r"got delta=0\.0"),
    ],
)
def test_impossible_plans_are_refused(plan: SitePlan, change: dict[str, Any], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        replace(plan, **change)


@pytest.mark.parametrize(("min_survivors", "colluding"), [(0, 0), (3, 3), (3, 4), (3, -1)])
def test_a_sum_without_an_honest_share_is_refused(min_survivors: int, colluding: int) -> None:
    with pytest.raises(PlanError, match=f"min_survivors={min_survivors}, colluding={colluding}"):
        make(min_survivors=min_survivors, colluding=colluding)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"releases": 0}, "steps=0"),
        ({"clipping_norm": 0.0}, "clipping_norm=0.0"),
        ({"epsilon": 1e-5}, "no noise multiplier under 10000 reaches epsilon=1e-05"),
    ],
)
def test_no_noise_is_sought_for_an_impossible_plan(change: dict[str, Any], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        make(**change)
    with pytest.raises(PlanError, match=named):
        make_central_site_plan(noisy=True, **(ASKED | change))


def test_what_the_grid_refuses_is_not_hidden() -> None:
    with pytest.raises(PlanError, match="bits=3"):
        make(3)


def test_only_one_accountant_knows_skellam_noise() -> None:
    plan = SITE_PLAN
    assert plan.epsilon_by("rdp") == plan.epsilon
    for other in ("pld", "prv"):
        with pytest.raises(PlanError, match=f"the {other} accountant does not know"):
            plan.epsilon_by(other)


# What plans cost.


def test_central_noise_is_that_of_the_reference() -> None:
    reference = Path(__file__).parents[4] / "shared" / "reference" / "accounting.json"
    expected = 4.24
    if reference.exists():
        assert json.loads(reference.read_text())["site_level"]["z"] == expected
    plan = make_central_site_plan(noisy=True, **ASKED)
    # The reference has three digits; the search adds a part in a thousand, the grid of losses half of one.
    assert plan.mechanism.multiplier == pytest.approx(expected, rel=0.0025)
    assert 7.99 <= plan.epsilon <= 8.0
    assert plan.epsilon_by("rdp") == pytest.approx(8.61, rel=0.0025)
    assert (plan.unit, plan.sampling_rate, plan.steps) == ("site", 1.0, ROUNDS)
    silent = make_central_site_plan(noisy=False, **ASKED)
    assert (silent.mechanism, silent.epsilon, silent.unit) == (NO_NOISE, math.inf, "site")


@pytest.mark.parametrize("bits", [20, 32])
def test_shared_noise_costs_what_gaussian_noise_does_on_a_fine_grid(bits: int) -> None:
    plan = make(bits, epsilon=8.61)
    gaussian = epsilon_by_rdp(
        mechanism=Mechanism(name="gaussian", multiplier=plan.mechanism.multiplier),
        sampling_rate=1.0,
        steps=ROUNDS,
        delta=DELTA,
    )
    # Orders are integers here, and fractions there: 0.5 %. The bound is from above.
    assert gaussian < plan.epsilon < 1.01 * gaussian
    assert plan.mechanism.multiplier == pytest.approx(4.24, rel=0.01)
    # Least: with a part in five hundred less noise it would not do.
    assert 8.58 < plan.epsilon <= 8.61


def test_a_coarse_grid_needs_more_noise() -> None:
    """At 12 bits a clipped update of norm 0.5 is some 110 steps long, and √(110² + 10^6 / 4) when rounded.

    The multiplier is over that bound; the noise beside the clipping norm is what grows.
    """

    def beside_clipping_norm(bits: int) -> float:
        plan = make(bits)
        assert 7.98 < plan.epsilon <= 8.0
        multiplier, l2 = plan.mechanism.multiplier, plan.shared.sensitivity.l2
        scale = scale_for_modulus(
            bits=bits, sites=SITES, dimension=DIMENSION, clipping_norm=0.5, noise_multiplier=multiplier
        )
        return multiplier * l2 / (0.5 * scale)

    assert beside_clipping_norm(16) == pytest.approx(make(32).mechanism.multiplier, rel=0.05)
    assert beside_clipping_norm(12) > 2 * beside_clipping_norm(16)


def test_doubling_is_the_same_noise_against_twice_the_sensitivity() -> None:
    doubled = SITE_PLAN.as_charged()
    assert doubled.mechanism.multiplier == 12.0
    assert (doubled.shared.sensitivity.l1, doubled.shared.sensitivity.l2) == (40_000.0, 2000.0)
    # Against Gaussian noise of half the multiplier, whose ρ is α / 2z²; the grid adds a few / 24000².
    for order in (2, 8, 64):
        assert doubled.renyi(order) == pytest.approx(order / (2 * 12.0**2), rel=1e-6)
        assert SITE_PLAN.renyi(order) == pytest.approx(order / (2 * 24.0**2), rel=1e-6)
        assert CENTRAL_PLAN.as_charged().renyi(order) == pytest.approx(order / (2 * 12.0**2), rel=1e-9)
    silent = replace(CENTRAL_PLAN, mechanism=NO_NOISE)
    for plan in (SITE_PLAN, CENTRAL_PLAN, silent):
        assert plan.as_charged().noise_std == plan.noise_std
        assert plan.as_charged().clipping_norm == 2.0
    assert silent.as_charged().epsilon == math.inf
    assert EXAMPLE_PLAN.as_charged() is EXAMPLE_PLAN
    assert EXAMPLE_PLAN.epsilon == CENTRAL_PLAN.epsilon


def test_the_noise_in_a_sum_is_that_of_its_survivors() -> None:
    """12 survivors bring twelve shares, of which ten are honest and five were counted on."""
    assert SITE_PLAN.summed_noise_std(7) == SITE_PLAN.noise_std == 24.0
    assert SITE_PLAN.summed_noise_std(12) == pytest.approx(24.0 * sqrt(2), rel=1e-12)
    assert CENTRAL_PLAN.summed_noise_std(7) == CENTRAL_PLAN.summed_noise_std(12) == 24.0
    with pytest.raises(PlanError, match="survivors=6"):
        SITE_PLAN.summed_noise_std(6)


def test_a_kind_of_plan_says_what_it_hides() -> None:
    kinds = {SITE_PLAN: True, CENTRAL_PLAN: True, EXAMPLE_PLAN: False}
    for plan, hides in kinds.items():
        assert (plan.hides_sites, plan.unit) == (hides, "site" if hides else "example")
        assert (plan.sampling_rate, plan.protects) == (1.0, True)
    assert not replace(CENTRAL_PLAN, mechanism=NO_NOISE).protects


def test_rounds_add_up() -> None:
    for plan in (SITE_PLAN, CENTRAL_PLAN):
        found = [plan.epsilon_after(rounds) for rounds in range(5)]
        assert found == sorted(set(found))
        assert (found[0], found[-1]) == (0.0, plan.epsilon)


def test_sites_that_see_through_their_own_share_are_cautioned_against() -> None:
    assert SITE_PLAN.cautions(100) == CENTRAL_PLAN.cautions(100) == ()
    (caution,) = make(colluding=0).cautions(100)
    assert "colluding=0" in caution


# What was really summed.


@settings(max_examples=40, deadline=None)
@given(survivors=st.lists(st.integers(7, 40), max_size=6), untold=st.integers(0, 3))
def test_more_survivors_cost_less(survivors: list[int], untold: int) -> None:
    rounds = len(survivors) + untold
    found = SITE_PLAN.epsilon_of_summed(survivors, untold=untold)
    # Sums of the same terms in another order.
    assert found <= SITE_PLAN.epsilon_after(rounds) * (1 + 1e-12)
    assert found == pytest.approx(SITE_PLAN.epsilon_of_summed(survivors[::-1], untold=untold), rel=1e-12)
    assert found >= SITE_PLAN.epsilon_of_summed([more + 1 for more in survivors], untold=untold)
    assert found <= SITE_PLAN.epsilon_of_summed([*survivors, 7], untold=untold)
    if not survivors:
        assert found == SITE_PLAN.epsilon_after(untold)


def test_survivors_count_for_the_noise_that_nobody_takes_away() -> None:
    """12 survivors, 2 of whom collude: ten honest shares where five were planned, so twice the variance."""
    quieter = replace(SITE_PLAN, mechanism=SkellamMechanism(multiplier=24.0 * sqrt(2)))
    found = SITE_PLAN.epsilon_of_summed([12] * 4)
    assert found == pytest.approx(quieter.epsilon, rel=1e-9)
    # Controls: were colluding sites' shares counted, or all planned ones honest, it would be another ε.
    for wrong in (12 / 7, 12 / 5):
        other = replace(SITE_PLAN, mechanism=SkellamMechanism(multiplier=24.0 * sqrt(wrong)))
        assert found != pytest.approx(other.epsilon, rel=0.02)


def test_sums_that_the_plan_rules_out_are_refused() -> None:
    with pytest.raises(PlanError, match="survivors=6"):
        SITE_PLAN.epsilon_of_summed([7, 6])
    with pytest.raises(PlanError, match="unit='site'"):
        summed_plan(EXAMPLE_PLAN)
    assert summed_plan(SITE_PLAN) is SITE_PLAN
    assert CENTRAL_PLAN.epsilon_of_summed([3, 9], untold=1) == CENTRAL_PLAN.epsilon_after(3)
    assert replace(CENTRAL_PLAN, mechanism=NO_NOISE).epsilon_of_summed([3]) == math.inf


# The noise.

DRAWS = 20_000
# ln of a sample variance of n draws has a deviation of √((kurtosis - 1) / n), and Skellam noise of a large
# variance has a normal's kurtosis of 3: 0.01. Six of them err once in 5e8 times; ln (3⁄2)² is 0.81.
LOG_TOLERANCE = 6 * sqrt(2 / DRAWS)


def summed_noise(plan: SharedSitePlan, sites: int) -> NDArray[np.int64]:
    nothing = ClippedIntegers(value=np.zeros(DRAWS, np.int64), bound=plan.shared.sensitivity.l2)
    drawn = [plan.contribution(nothing, keyed_source(8, site)) for site in range(sites)]
    return np.sum(drawn, axis=0)


def has_variance(noise: NDArray[np.int64], variance: float) -> bool:
    return abs(math.log(float(np.mean(noise.astype(np.float64) ** 2)) / variance)) < LOG_TOLERANCE


@pytest.mark.parametrize(("min_survivors", "colluding"), [(7, 2), (10, 0), (3, 2)])
def test_shares_add_up_to_the_planned_noise_without_those_who_left_and_collude(
    min_survivors: int, colluding: int
) -> None:
    sensitivity = IntegerSensitivity(l1=400.0 * sqrt(DRAWS), l2=400.0)
    plan = replace(
        SITE_PLAN,
        mechanism=SkellamMechanism(multiplier=4.24),
        shared=SharedNoise(sensitivity=sensitivity, min_survivors=min_survivors, colluding=colluding),
    )
    planned = (4.24 * 400.0) ** 2
    honest = summed_noise(plan, min_survivors - colluding)
    assert has_variance(honest, planned)
    for factor in (2 / 3, 3 / 2):
        assert not has_variance(honest, planned * factor**2)
        # Controls: sites that draw too little or too much are seen.
        multiplier = SkellamMechanism(multiplier=4.24 * factor)
        assert not has_variance(
            summed_noise(replace(plan, mechanism=multiplier), min_survivors - colluding), planned
        )
    # All ten sites in the sum, of whom nobody is dishonest: what ``excess`` says.
    shared = plan.shared
    assert has_variance(summed_noise(plan, 10), planned * 10 / shared.honest)
    assert shared.excess(min_survivors) == 1.0
    assert shared.excess(12) == (12 - colluding) / shared.honest
    # Control: shares for as many as survive, not for the honest among them, would be too little.
    if colluding:
        greedy = replace(plan, shared=replace(shared, colluding=0))
        assert not has_variance(summed_noise(greedy, min_survivors - colluding), planned)


def test_integers_that_the_plan_was_not_made_for_are_refused() -> None:
    value = np.array([3, -4, 0])
    right = ClippedIntegers(value=value, bound=1000.0)
    moved = SITE_PLAN.contribution(right, keyed_source(9)) - SITE_PLAN.contribution(
        replace(right, value=np.zeros(3, np.int64)), keyed_source(9)
    )
    assert np.array_equal(moved, value)
    for bound in (999.0, 1001.0):
        with pytest.raises(PrivacyUnitError, match=f"l2={bound}"):
            SITE_PLAN.contribution(ClippedIntegers(value=value, bound=bound), keyed_source(9))
    # More coordinates than the plan's L1 bound allows for: √401 > 20.
    wide = ClippedIntegers(value=np.zeros(401, np.int64), bound=1000.0)
    with pytest.raises(PrivacyUnitError, match="l1="):
        SITE_PLAN.contribution(wide, keyed_source(9))
    assert np.array_equal(CENTRAL_PLAN.contribution(right, keyed_source(9)), value)
