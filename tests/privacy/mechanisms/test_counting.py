"""A count is whole, one example moves it by one at most, and its noise leaves no trace of which it was."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting.accountant import renyi
from privacy.accounting.sampled_plan import make_count_plan
from privacy.errors import PrivacyUnitError
from privacy.ledger.budget import _FLOAT_ERROR, make_budget, nats
from privacy.mechanisms.counting import LEAST, MOST, ONE, Count, count_shares
from privacy.mechanisms.discrete_laplace import draw_integer_laplace
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source

SHARES = st.floats(allow_nan=True, allow_infinity=True, width=64)


# Refused.


@pytest.mark.parametrize("name", ["gaussian", "none"])
def test_only_laplace_noise_hides_a_count(name: str) -> None:
    mechanism = Mechanism(name=name, multiplier=0.0 if name == "none" else 1.0)
    with pytest.raises(PrivacyUnitError, match=f"expected Laplace noise .* got '{name}'"):
        Count(value=3, bound=1).release(mechanism, keyed_source(0))


@pytest.mark.parametrize(("value", "bound"), [(1.5, 1), (1, 1.0), (np.int64(1), 1), (1, 0), (1, -1)])
def test_a_count_of_floats_or_without_a_bound_is_refused(value: object, bound: object) -> None:
    with pytest.raises(PrivacyUnitError, match="expected integers and a bound of at least 1"):
        Count(value=value, bound=bound)


def test_more_than_one_share_an_example_is_refused() -> None:
    with pytest.raises(PrivacyUnitError, match="one share an example"):
        count_shares(np.ones((4, 2)))


# Sums.


def test_shares_are_counted_in_units() -> None:
    assert count_shares(np.array([1.0, 0.5, 0.0, 2.0**-30])) == Count(value=3 * 2**29 + 1, bound=2**30)
    assert count_shares(np.array([1 / 3])).value == round(Fraction(2**30, 3))
    assert count_shares(np.zeros(0)).value == 0


def test_what_is_no_share_counts_for_the_nearest() -> None:
    found = [count_shares(np.array([share])).value for share in (7.0, -2.0, math.nan, math.inf, -math.inf)]
    assert found == [ONE, 0, 0, 0, 0]


@given(st.lists(SHARES, min_size=1, max_size=40), SHARES, st.data())
def test_one_example_moves_the_sum_by_its_bound_at_most(
    shares: list[float], other: float, data: st.DataObject
) -> None:
    """Exactly, whatever the others hold; and a sum does not know in which order it was made."""
    place = data.draw(st.integers(0, len(shares) - 1))
    before = count_shares(np.array(shares))
    after = count_shares(np.array([*shares[:place], other, *shares[place + 1 :]]))
    assert type(before.value) is int
    assert before.bound == ONE
    assert abs(before.value - after.value) <= before.bound
    assert before == count_shares(np.array(shares[::-1]))


def test_sums_of_floats_would_move_by_more() -> None:
    """Why a share is rounded first: the sum of floats rounds anew, as the others have it."""
    others = [0.1 * n for n in range(10)]
    assert max(Fraction(other + 1.0) - Fraction(other) for other in others) > 1
    for other in others:
        with_one, without = (count_shares(np.array([other, share])).value for share in (1.0, 0.0))
        assert with_one - without == ONE


# Noise.


def test_noise_has_the_scale_that_the_bound_asks_for() -> None:
    """|x| of a Laplace variable has mean and deviation b: over 1,600 draws the mean is within 12.5 % of it
    but once in 10^6, and ⅔ and 3⁄2 are 33 % and 50 % away."""
    mechanism = make_count_plan(epsilon=0.4, delta=1e-5).mechanism
    for bound in (ONE, 7, ONE * 2 // 3, ONE * 3 // 2):
        count, source = Count(value=12 * ONE, bound=bound), keyed_source(0, bound)
        draws = np.array([count.release(mechanism, source) - count.value for _ in range(1600)])
        for wrong in (1, 2 / 3, 3 / 2):
            near = abs(np.abs(draws).mean() / (bound / 0.4 * wrong) - 1) < 0.125
            assert near == (wrong == 1), (bound, wrong)


def test_a_release_is_the_value_and_the_noise() -> None:
    mechanism = Mechanism(name="laplace", multiplier=2.5)
    noise = draw_integer_laplace(scale=Fraction(5, 2) * ONE, source=keyed_source(1))
    for value in (0, 5, -(10**15)):
        assert Count(value=value, bound=ONE).release(mechanism, keyed_source(1)) == value + noise


def test_what_leaves_int64_is_cut_to_it() -> None:
    mechanism = make_count_plan(epsilon=1e-300, delta=1e-5).mechanism
    count = Count(value=5 * ONE, bound=ONE)
    assert {count.release(mechanism, keyed_source(0, n)) for n in range(20)} == {LEAST, MOST}


@pytest.mark.parametrize("epsilon", [0.1, 0.49, 1 / 3, 0.5, 3.0, 100.0, 1e-4])
def test_the_scale_gives_no_more_than_was_asked_for(epsilon: float) -> None:
    """As rationals: one example moves the sum by 1 / multiplier of the scale, and that is the loss."""
    multiplier = make_count_plan(epsilon=epsilon, delta=1e-5).mechanism.multiplier
    assert 1 / Fraction(multiplier) <= Fraction(epsilon)
    assert 1 / Fraction(math.nextafter(multiplier, 0.0)) > Fraction(epsilon)


# What Mironov's attack reads, and finds here no more.


def float_noise(places: np.ndarray, scale: float) -> np.ndarray:
    """What the inverse of the distribution makes in float64 of the uniforms with these numbers."""
    centred = (places.astype(np.float64) * 2.0**-52 + 2.0**-53) - 0.5
    return -scale * np.sign(centred) * np.log1p(-2.0 * np.abs(centred))


def float_attainable(released: float, count: float, scale: float) -> bool:
    """Whether any of the 2^52 uniforms turns this count into what was released."""
    noise = released - count
    uniform = 0.5 - np.expm1(-abs(noise) / scale) / 2 * np.sign(noise)
    near = int(uniform * 2**52) + np.arange(-64, 65)
    near = near[(near >= 0) & (near < 2**52)]
    return bool((count + float_noise(near, scale) == released).any())


def test_noise_in_floats_tells_neighbouring_counts_apart() -> None:
    """The attack works where it should: what it is used on below could not be a success of its failure."""
    scale, told = 2.0, 0
    for place in np.random.default_rng(0).integers(0, 2**52, 200):
        released = float(1.0 + float_noise(place, scale))
        assert float_attainable(released, 1.0, scale)
        told += not float_attainable(released, 0.0, scale)
    assert told > 20


class Script:
    """A source that says what it is told to, and refuses what it could not have drawn."""

    def __init__(self, *drawn: int) -> None:
        self.drawn = list(drawn)

    def below(self, end: int) -> int:
        drawn = self.drawn.pop(0)
        assert 0 <= drawn < end
        return drawn


def draws_of(noise: int, scale: Fraction) -> Script:
    """Uniform integers from which the sampler makes this very noise."""
    blocks, place = divmod(abs(noise) * scale.denominator, scale.numerator)
    # A coin is true if the first draw is not below its numerator; for exp(−1), where the first always is,
    # if the third is the first that is not.
    kept, heads, tails = Fraction(place, scale.numerator).denominator - 1, (0, 0, 2), (0, 1)
    return Script(place, kept, *heads * blocks, *tails, int(noise < 0))


@pytest.mark.parametrize("epsilon", [0.1, 0.49, 0.5, 1.0])
def test_every_output_of_a_count_is_one_of_its_neighbour(epsilon: float) -> None:
    """For each of them there are draws with which the other count gives the same integer."""
    mechanism = make_count_plan(epsilon=epsilon, delta=1e-5).mechanism
    scale = Fraction(mechanism.multiplier) * ONE
    counts = [count_shares(np.array(shares)) for shares in ([1.0, 1 / 3], [0.0, 1 / 3], [0.7, 1 / 3])]
    for n, count in enumerate(counts):
        for key in range(200):
            released = count.release(mechanism, keyed_source(n, key))
            assert type(released) is int
            for other in counts:
                script = draws_of(released - other.value, scale)
                assert other.release(mechanism, script) == released
                assert not script.drawn


# What it costs.


def moment(order: int, scale: mpmath.mpf, bound: int, *, whole: bool) -> mpmath.mpf:
    """E[(shifted / unshifted)^order] for a shift by ``bound``: ``Count.release``'s closed form."""
    epsilon, both = bound / scale, mpmath.mpf(2 * order - 1)
    up, down = mpmath.exp((order - 1) * epsilon), mpmath.exp(-order * epsilon)
    half = 1 / (2 * scale)
    weight = mpmath.tanh(half) / mpmath.tanh(both * half) if whole else 1 / both
    return (up + down) / 2 + weight * (up - down) / 2


@pytest.mark.parametrize("order", [2, 3, 17])
@pytest.mark.parametrize(("scale", "bound"), [(0.7, 1), (2.5, 3), (40.0, 9)])
def test_the_closed_form_is_the_sum_over_all_integers(order: int, scale: float, bound: int) -> None:
    with mpmath.workdps(60):
        exact = mpmath.mpf(scale)
        ratio = mpmath.exp(-1 / exact)
        # Terms fall by ratio each beyond 0 and the bound: those left out are under e^-90 of the sum.
        reach = int(100 * scale) + bound
        total = (1 - ratio) / (1 + ratio)
        total *= mpmath.fsum(
            ratio ** (order * abs(k - bound) + (1 - order) * abs(k)) for k in range(-reach, reach + bound)
        )
        assert abs(total / moment(order, exact, bound, whole=True) - 1) < mpmath.mpf(10) ** -35


@pytest.mark.parametrize("epsilon", [1e-4, 1e-3, 0.01, 0.1, 0.49, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0])
def test_the_ledger_charges_no_less_than_it_costs(epsilon: float) -> None:
    """It charges the noise on the reals, which is a little more private; rounding up covers that."""
    plan = make_count_plan(epsilon=epsilon, delta=1e-5)
    for order in (*range(2, 10), 16, 32, 64, 128, 255, 256):
        with mpmath.workdps(60):
            scale = mpmath.mpf(plan.mechanism.multiplier) * ONE
            whole, real = (
                mpmath.log(moment(order, scale, ONE, whole=kind)) / (order - 1) for kind in (True, False)
            )
            assert real < whole < real * (1 + mpmath.mpf(10) ** -15)
            charged = make_budget(epsilon=1.0, delta=1e-5, order=order).cost(plan)
            assert whole * 10**9 <= charged.renyi
        unrounded = renyi(mechanism=plan.mechanism, sampling_rate=1.0, order=order) * (1 + _FLOAT_ERROR)
        assert charged.renyi == nats(unrounded)
        assert unrounded > whole
        # ε itself is charged as the decimal that a person wrote, and is that up to a float's rounding.
        assert charged.epsilon >= 10**9 / Fraction(plan.mechanism.multiplier) * (1 - Fraction(1, 2**52))
