"""The arithmetic of bounds: guesses, p-values, curves, separations, rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from privacy.audit.f_dp import curve_through, gaussian_curve, noise_refuted, refutes
from privacy.audit.gaussian_pair import gaussian_epsilon, pair_bound, separation_bound
from privacy.audit.guesses import Guesses, guess, guess_shares
from privacy.audit.many_runs import Hits, many_runs_bound, rate_interval
from privacy.audit.one_run import best_of, largest_refuted, one_run_bound, p_value
from privacy.audit.roc import auc, tpr_at
from privacy.errors import AuditError

MADE = st.integers(1, 60).flatmap(lambda made: st.tuples(st.just(made), st.integers(0, made)))


@settings(deadline=None)
@given(numbers=MADE, epsilon=st.floats(0.0, 8.0))
def test_without_delta_a_p_value_is_a_binomial_tail(numbers: tuple[int, int], epsilon: float) -> None:
    made, right = numbers
    found = p_value(Guesses(canaries=60, made=made, right=right), epsilon=epsilon, delta=0.0)
    tail = sum(binom.pmf(k, made, 1 / (1 + math.exp(-epsilon))) for k in range(right, made + 1))
    assert found == pytest.approx(min(1.0, tail), abs=1e-9)


@settings(deadline=None)
@given(numbers=MADE, epsilon=st.floats(0.0, 8.0), delta=st.floats(1e-9, 1e-3))
def test_a_p_value_falls_with_epsilon_and_grows_with_delta(
    numbers: tuple[int, int], epsilon: float, delta: float
) -> None:
    guesses = Guesses(canaries=60, made=numbers[0], right=numbers[1])
    found = p_value(guesses, epsilon=epsilon, delta=delta)
    assert 0.0 <= found <= 1.0
    # More right guesses are likelier where more may be learned.
    assert p_value(guesses, epsilon=epsilon + 0.5, delta=delta) >= found - 1e-9
    assert p_value(guesses, epsilon=epsilon, delta=0.0) <= found + 1e-12


@settings(deadline=None, max_examples=25)
@given(numbers=MADE)
def test_bounds_grow_with_right_guesses(numbers: tuple[int, int]) -> None:
    made, right = numbers
    fewer = one_run_bound(Guesses(canaries=60, made=made, right=right), delta=1e-5, error=0.05)
    more = one_run_bound(
        Guesses(canaries=60, made=made, right=min(made, right + 1)), delta=1e-5, error=0.05
    )
    assert 0.0 <= fewer <= more + 1e-3


def test_all_right_of_a_hundred_prove_what_a_coin_says() -> None:
    """At δ = 0: accuracy^100 = 5 %."""
    accuracy = 0.05 ** (1 / 100)
    found = one_run_bound(Guesses(canaries=100, made=100, right=100), delta=0.0, error=0.05)
    assert found == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-3)


def test_several_tries_share_the_error() -> None:
    several = [Guesses(canaries=100, made=20, right=20), Guesses(canaries=100, made=100, right=50)]
    found = best_of(lambda one, error: one_run_bound(one, delta=0.0, error=error), several, error=0.05)
    assert found == one_run_bound(several[0], delta=0.0, error=0.025)
    assert found < one_run_bound(several[0], delta=0.0, error=0.05)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), made=st.integers(1, 50))
def test_guesses_go_by_scores_alone(seed: int, made: int) -> None:
    generator = np.random.default_rng(seed)
    scores, present = generator.standard_normal(50), generator.random(50) < 0.5
    found = guess(scores, present, made=made)
    assert guess(scores, ~present, made=made).right == made - found.right
    assert guess(3.0 * scores, present, made=made) == found


def test_guesses_are_refused_for_what_are_no_scores() -> None:
    with pytest.raises(AuditError, match="one score a canary"):
        guess(np.zeros(3), np.zeros(4, bool), made=1)
    with pytest.raises(AuditError, match="NaN"):
        guess(np.array([0.0, math.nan]), np.zeros(2, bool), made=1)
    with pytest.raises(AuditError, match="right=3"):
        Guesses(canaries=10, made=2, right=3)
    assert [one.made for one in guess_shares(np.ones(10), np.ones(10, bool), shares=(0.01, 0.5))] == [1, 5]


@settings(deadline=None)
@given(right=st.floats(0.001, 0.999), apart=st.floats(0.0, 6.0))
def test_a_gaussian_curve_is_its_tests(right: float, apart: float) -> None:
    """A test that is right with a probability is wrong with another: a threshold between two Gaussians."""
    threshold = norm.isf(right, loc=apart)
    assert gaussian_curve(apart)(right) == pytest.approx(float(norm.sf(threshold)), abs=1e-9)


@settings(deadline=None)
@given(right=st.floats(0.0, 1.0), epsilon=st.floats(0.0, 5.0), delta=st.floats(0.0, 0.5))
def test_a_curve_through_one_promise_is_that_promise(right: float, epsilon: float, delta: float) -> None:
    wrong = curve_through([(epsilon, delta)])(right)
    assert 0.0 <= wrong <= 1.0
    assert right <= math.exp(epsilon) * wrong + delta + 1e-9
    assert 1 - wrong <= math.exp(epsilon) * (1 - right) + delta + 1e-9


def test_a_curve_through_many_promises_is_near_the_gaussian_one() -> None:
    """From below: what is promised is true. Between promises it is a chord, near enough with so many."""
    deltas = np.geomspace(1e-9, 0.3, 200)
    promises = [(gaussian_epsilon(1.0, delta=float(delta)), float(delta)) for delta in deltas]
    curve, exact = curve_through(promises), gaussian_curve(1.0)
    for right in np.linspace(0.01, 0.99, 25):
        assert 0.95 * exact(right) - 1e-3 <= curve(right) <= exact(right) + 1e-3


def test_what_is_likely_is_not_refuted() -> None:
    """By hand for one canary: right half of the time is no news; and none of it is at no separation."""
    assert not refutes(Guesses(canaries=1, made=1, right=1), gaussian_curve(0.0), error=0.05)
    assert refutes(Guesses(canaries=100, made=100, right=80), gaussian_curve(0.0), error=0.05)
    assert not refutes(Guesses(canaries=100, made=100, right=80), gaussian_curve(3.0), error=0.05)


def test_the_least_noise_that_is_refuted_is_found_among_those_tried() -> None:
    guesses, tried = Guesses(canaries=200, made=200, right=160), [0.1 * k for k in range(1, 60)]
    found = noise_refuted(guesses, lambda noise: gaussian_curve(1 / noise), among=tried, error=0.05)
    all_of_them = [n for n in tried if refutes(guesses, gaussian_curve(1 / n), error=0.05)]
    assert found == min(all_of_them)
    nothing = Guesses(canaries=200, made=200, right=100)
    assert noise_refuted(nothing, lambda noise: gaussian_curve(1 / noise), among=tried, error=0.05) == (
        math.inf
    )


@settings(deadline=None)
@given(apart=st.floats(0.05, 4.0), delta=st.floats(1e-8, 0.05))
def test_a_gaussian_epsilon_has_its_delta(apart: float, delta: float) -> None:
    epsilon = gaussian_epsilon(apart, delta=delta)
    left = norm.cdf(apart / 2 - epsilon / apart) - math.exp(epsilon) * norm.cdf(
        -apart / 2 - epsilon / apart
    )
    assert left == pytest.approx(delta, rel=1e-2) or epsilon == 0.0


def test_the_reference_gaussian() -> None:
    assert gaussian_epsilon(1.0, delta=1e-5) == pytest.approx(4.377178, rel=1e-4)
    assert gaussian_epsilon(1 / 3.730632, delta=1e-5) == pytest.approx(1.0, rel=1e-3)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3))
def test_a_separation_knows_no_units(seed: int, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.random(300) < 0.5).astype(float)
    scores = 2.0 * weights + generator.standard_normal(300)
    found = separation_bound(scores, weights, error=0.05)
    assert 0.0 <= found < 3.0
    moved = separation_bound(scale * (scores + shift), weights, error=0.05)
    assert moved == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_scores_without_noise_are_infinitely_far_apart() -> None:
    weights = np.array([0.0, 1.0] * 20)
    assert separation_bound(3.0 * weights - 1.0, weights, error=0.05) == math.inf
    assert separation_bound(-3.0 * weights, weights, error=0.05) == 0.0
    assert separation_bound(weights, np.ones(40), error=0.05) == 0.0
    assert pair_bound(3.0 * weights, weights > 0, delta=1e-5, error=0.05) == 100.0
    with pytest.raises(AuditError, match="finite"):
        separation_bound(np.full(40, np.nan), weights, error=0.05)
    with pytest.raises(AuditError, match="3 at least"):
        separation_bound(np.zeros(2), np.zeros(2), error=0.05)


@settings(deadline=None)
@given(numbers=MADE)
def test_an_interval_of_a_rate_inverts_binomial_tails(numbers: tuple[int, int]) -> None:
    runs, hits = numbers
    low, high = rate_interval(hits, runs, error=0.1)
    assert 0.0 <= low <= hits / runs <= high <= 1.0
    if hits:
        assert binom.sf(hits - 1, runs, low) == pytest.approx(0.05)
    if hits < runs:
        assert binom.cdf(hits, runs, high) == pytest.approx(0.05)


def test_many_runs_prove_what_their_rates_say() -> None:
    sure = many_runs_bound(Hits(runs_in=500, hits_in=500, runs_out=500, hits_out=0), delta=0.0, error=0.05)
    low = 0.025 ** (1 / 500)
    assert sure == pytest.approx(math.log(low / (1 - low)), rel=1e-6)
    # That it is never out where the attack says so tells as much, be it right about few.
    told = Hits(runs_in=500, hits_in=500, runs_out=500, hits_out=250)
    assert many_runs_bound(told, delta=0.0, error=0.05) > 3.0
    guessing = Hits(runs_in=500, hits_in=250, runs_out=500, hits_out=250)
    assert many_runs_bound(guessing, delta=0.0, error=0.05) == 0.0
    with pytest.raises(AuditError):
        Hits(runs_in=0, hits_in=0, runs_out=1, hits_out=0)


def test_rates_of_a_known_pair() -> None:
    """Two unit Gaussians 1 apart: AUC Φ(1/√2), and TPR Φ(1 − z) at each FPR."""
    generator = np.random.default_rng(0)
    present = generator.random(20_000) < 0.5
    scores = present + generator.standard_normal(20_000)
    found = auc(scores, present, error=0.001)
    assert found.low < norm.cdf(1 / math.sqrt(2)) < found.high
    assert found.high - found.low < 0.03
    at = tpr_at(scores, present, fpr=0.01, error=0.001)
    assert at.low - 0.01 < norm.cdf(1 - norm.isf(0.01)) < at.high + 0.01


def test_rates_need_both_and_count_ties_half() -> None:
    present = np.array([True, True, False, False])
    assert auc(np.zeros(4), present, error=0.05).value == 0.5
    assert auc(np.array([1.0, 2.0, 0.0, -1.0]), present, error=0.05).value == 1.0
    assert tpr_at(np.array([1.0, 2.0, 0.0, 1.5]), present, fpr=0.01, error=0.05).value == 0.5
    with pytest.raises(AuditError, match="two canaries in"):
        auc(np.zeros(4), np.ones(4, bool), error=0.05)


def test_what_is_refuted_is_searched_to_its_end() -> None:
    assert largest_refuted(lambda x: x < 2.5) == pytest.approx(2.5, rel=1e-3)
    assert largest_refuted(lambda _x: False) == 0.0
    assert largest_refuted(lambda _x: True, most=7.0) == 7.0


@settings(deadline=None)
@given(numbers=MADE, epsilon=st.floats(0.0, 4.0), delta=st.floats(1e-6, 1e-3))
def test_a_p_values_delta_term_is_the_theorems(
    numbers: tuple[int, int], epsilon: float, delta: float
) -> None:
    """Term by term: 2mδ times the largest mean of the probabilities of just too few right guesses."""
    made, right = numbers
    chances = [float(binom.pmf(k, made, 1 / (1 + math.exp(-epsilon)))) for k in range(made + 1)]
    few = [sum(chances[right - i : right]) / i for i in range(1, right + 1)]
    expected = sum(chances[right:]) + 2 * 60 * delta * max(few, default=0.0)
    found = p_value(Guesses(canaries=60, made=made, right=right), epsilon=epsilon, delta=delta)
    assert found == pytest.approx(min(1.0, expected), abs=1e-9)
