"""Discrete noise: every outcome with exactly its own probability, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.mechanisms import exact_noise
from privacy.mechanisms.exact_noise import (
    SCALE_MAX,
    _exp_bounds,
    _geometric,
    _happens,
    _Uniform,
    draw_gaussian,
    draw_laplace,
)
from privacy.mechanisms.rng import keyed_source

SIZE = 40_000
# A test at this level fails for one key in a million.
LEVEL = 1e-6


def words(*path: str | int):
    return keyed_source(0, "exact noise", *path)._words


def scripted(*drawn: int):
    """A stream that gives these words and then no more."""
    stream: Iterator[int] = iter(drawn)
    return lambda size: np.array([next(stream) for _ in range(size)], np.uint64)


def nothing(size: int) -> NDArray[np.uint64]:
    raise AssertionError(f"{size} more words are asked for")


def draw(kind: str, size: int, parameter: float, *path: str | int) -> NDArray[np.int64]:
    if kind == "laplace":
        return draw_laplace(size, scale=int(parameter), words=words(*path))
    return draw_gaussian(size, std=parameter, words=words(*path))


def probabilities(kind: str, parameter: float, reach: int) -> NDArray[np.float64]:
    """Of the integers from -reach to reach, by the definition."""
    k = np.abs(np.arange(-reach, reach + 1)).astype(np.float64)
    weights = np.exp(-k / parameter if kind == "laplace" else -(k**2) / (2 * parameter**2))
    return weights / weights.sum()


def passes(sample: NDArray[np.int64], kind: str, parameter: float) -> bool:
    """A chi-square test of every integer, merged in the tails so that each class expects 10 draws."""
    reach = int(60 * parameter) + 60
    law = probabilities(kind, parameter, reach)
    above = np.cumsum(law[::-1])[::-1][reach:]
    edge = max(1, int(np.flatnonzero(above * len(sample) >= 10)[-1]))
    inner = law[reach - edge : reach + edge + 1].copy()
    inner[[0, -1]] = above[edge]
    found = np.bincount(np.clip(sample, -edge, edge) + edge, minlength=2 * edge + 1)
    return bool(stats.chisquare(found, inner / inner.sum() * len(sample)).pvalue > LEVEL)


# Refused.


@pytest.mark.parametrize("scale", [0, -1, 0.5, 1.5, SCALE_MAX + 1])
def test_scales_that_cannot_be_drawn_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="whole scale in"):
        draw_laplace(1, scale=scale, words=nothing)


@pytest.mark.parametrize("std", [0.0, -1.0, 1e-7, 2.0**55, float("nan"), float("inf")])
def test_deviations_that_cannot_be_drawn_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match="standard deviation in"):
        draw_gaussian(1, std=std, words=nothing)


# Distributions.


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("parameter", [1.0, 3.0, 40.0])
def test_every_integer_is_drawn_as_often_as_it_should_be(kind: str, parameter: float) -> None:
    sample = draw(kind, SIZE, parameter, kind)
    assert passes(sample, kind, parameter)
    assert not passes(sample, kind, parameter * 2 / 3 if parameter > 1 else 2.0)
    assert not passes(sample, kind, parameter * 3 / 2)
    other = "laplace" if kind == "gaussian" else "gaussian"
    assert not passes(sample, other, parameter)


@pytest.mark.parametrize("std", [0.3, 0.77, 2.5])
def test_a_deviation_need_not_be_whole(std: float) -> None:
    sample = draw("gaussian", SIZE, std, "fraction")
    assert passes(sample, "gaussian", std)
    assert not passes(sample, "gaussian", std * 3 / 2)


@pytest.mark.parametrize(("kind", "law"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
@pytest.mark.parametrize("size", [2.0**20, 2.0**40, 2.0**54])
def test_large_noise_has_its_scale_and_uniform_low_bits(kind: str, law, size: float) -> None:
    """At these sizes a discrete law differs from the real one by less than 1/size; a KS test sees 0.013."""
    sample = draw(kind, SIZE, size, "large", kind)
    for factor, expected in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert bool(stats.kstest(sample, law(scale=size * factor).cdf).pvalue > LEVEL) is expected
    assert stats.chisquare(np.bincount(sample & 15, minlength=16)).pvalue > LEVEL
    # The correlation of independent neighbours has a standard deviation of 1/√40000 = 0.005.
    assert abs(np.corrcoef(sample[:-1].astype(float), sample[1:].astype(float))[0, 1]) < 5 * 0.005


def test_geometric_numbers_have_their_probabilities() -> None:
    found = np.bincount(np.minimum(_geometric(SIZE, words("geometric")), 7), minlength=8)
    expected = np.exp(-np.arange(8)) * np.append(np.full(7, -np.expm1(-1.0)), 1.0)
    assert stats.chisquare(found, expected * SIZE).pvalue > LEVEL


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_nothing_is_drawn_where_nothing_is_asked_for(kind: str) -> None:
    assert draw(kind, 0, 5.0).shape == (0,)
    assert draw(kind, 0, 5.0).dtype == np.int64


# Exactness.


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("parameter", [1.0, 2.0**30 + 1])
def test_floats_decide_as_integers_would(
    kind: str, parameter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a margin of 1 every comparison is made with exact numbers: the same draws come of it."""
    quick = draw(kind, 300, parameter, "same", kind)
    asked: list[Fraction] = []
    exact = _Uniform.is_below_exp
    monkeypatch.setattr(
        _Uniform, "is_below_exp", lambda self, gamma: asked.append(gamma) or exact(self, gamma)
    )
    monkeypatch.setattr(exact_noise, "_MARGIN", 1.0)
    assert np.array_equal(draw(kind, 300, parameter, "same", kind), quick)
    assert len(asked) > 300


@pytest.mark.parametrize(
    "gamma",
    [Fraction(1), Fraction(1, 3), Fraction(700), Fraction(1, 2**60), Fraction(30, 7), Fraction(10**12)],
)
@pytest.mark.parametrize("bits", [64, 128, 640])
def test_bounds_hold_the_exponential(gamma: Fraction, bits: int) -> None:
    low, high = _exp_bounds(gamma, bits=bits)
    with mpmath.workdps(300):
        exact = mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator) * mpmath.mpf(2) ** bits
        assert low <= exact <= high
    assert high - low <= 3


def test_a_close_call_is_decided_by_more_bits() -> None:
    """A word whose interval holds exp(−γ): as many words are drawn as tell on which side the number is."""
    gamma = Fraction(2, 3)
    with mpmath.workdps(120):
        digits = int(mpmath.floor(mpmath.exp(-mpmath.mpf(2) / 3) * mpmath.mpf(2) ** 192))
    first, second, third = digits >> 128, (digits >> 64) % 2**64, digits % 2**64
    assert _Uniform(first - 2, nothing).is_below_exp(gamma)
    assert not _Uniform(first + 2, nothing).is_below_exp(gamma)
    assert _Uniform(first, scripted(second - 2)).is_below_exp(gamma)
    assert not _Uniform(first, scripted(second + 2)).is_below_exp(gamma)
    assert _Uniform(first, scripted(second, third - 2)).is_below_exp(gamma)
    assert not _Uniform(first, scripted(second, third + 2)).is_below_exp(gamma)


def test_what_is_certain_happens() -> None:
    """exp(0) is 1, and no uniform number reaches it, not even one whose bits are all ones."""
    certain = np.zeros(2)
    drawn = scripted(2**64 - 1, 0)
    assert _happens(certain, lambda _place: Fraction(0), drawn).all()


@pytest.mark.parametrize("j", [1, 2, 20, 44])
def test_a_word_at_a_threshold_is_looked_at_again(j: int) -> None:
    with mpmath.workdps(120):
        digits = int(mpmath.floor(mpmath.exp(-j) * mpmath.mpf(2) ** 128))
    word, rest = digits >> 64, digits % 2**64
    assert _geometric(1, scripted(word, rest - 2)) == [j]
    assert _geometric(1, scripted(word, rest + 2)) == [j - 1]
    assert _geometric(1, scripted(word + 1)) == [j - 1]
    if j < 44:
        assert _geometric(1, scripted(word - 1)) == [j]


def test_a_word_of_zeros_has_no_largest_number() -> None:
    """2^-128 and twice that are between e^-89 and e^-88."""
    assert _geometric(1, scripted(0, 1, 0)) == [88]
    assert _geometric(1, scripted(0, 0, 2**63)) == [89]
