"""Each mechanism adds its own noise, of the size that the clipped value asks for, and no other."""

from __future__ import annotations

import doctest
import re
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from privacy.errors import PlanError, PrivacyUnitError
from privacy.mechanisms.clipping import Clipped, ClippedIntegers, clip, clip_gradients, clip_rows
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from privacy.mechanisms.skellam import SkellamMechanism

DRAWS = 20_000
# The Kolmogorov-Smirnov distance of n draws from their own distribution exceeds
# sqrt(ln(2 / p) / 2n) with probability p at most, on integers too (Dvoretzky-Kiefer-Wolfowitz): 0.019
# for p = 1e-6. Scales 2/3 and 3/2 lie 0.097 (normal) and 0.074 (Laplace) away.
DISTANCE = sqrt(np.log(2 / 1e-6) / (2 * DRAWS))

NORM = {"gaussian": 2, "laplace": 1}
LAWS = {"gaussian": stats.norm, "laplace": stats.laplace}


class DiscreteGaussian:
    """The reference: exp(−k² / 2σ²), summed over all k that float64 tells from zero."""

    def __init__(self, std: float) -> None:
        self.low = -int(40 * std) - 1
        weights = np.exp(-(np.arange(self.low, -self.low + 1) ** 2) / (2 * std**2))
        self._sums = np.cumsum(weights) / weights.sum()

    def cdf(self, k: NDArray) -> NDArray[np.float64]:
        return self._sums[np.asarray(k, np.int64) - self.low]


def law(name: str, scale: float):
    """The distribution of noise of this standard deviation or, for Laplace, scale."""
    if name == "skellam":
        return stats.skellam(scale**2 / 2, scale**2 / 2)
    return DiscreteGaussian(scale) if name == "discrete_gaussian" else LAWS[name](scale=scale)


def distance(draws: NDArray, distribution) -> float:
    """The Kolmogorov-Smirnov distance: of a step function's two sides on integers as on reals."""
    values, counts = np.unique(draws, return_counts=True)
    after = np.cumsum(counts) / len(draws)
    cdf = distribution.cdf(values)
    if draws.dtype == np.int64:
        return float(np.abs(after - cdf).max())
    return float(max(np.abs(after - cdf).max(), np.abs(after - counts / len(draws) - cdf).max()))


def is_noise(draws: NDArray, name: str, *, scale: float) -> bool:
    return distance(draws, law(name, scale)) < DISTANCE


def zeros(name: str, *, bound: float) -> Clipped:
    """A clipped value with nothing in it: what is released is the noise."""
    return clip(np.zeros(DRAWS), bound=bound, norm=NORM[name])


# Refused.


def test_noise_for_one_norm_does_not_hide_what_another_bounds() -> None:
    source = keyed_source(0)
    rows, gradients = np.ones((2, 3)), [torch.ones(2, 3)]
    for mechanism, other in (("laplace", 2), ("gaussian", 1)):
        release = Mechanism(name=mechanism, multiplier=1.0).release
        for clipped in (
            clip(rows[0], bound=1.0, norm=other),
            clip_rows(rows, bound=1.0, norm=other),
            clip_gradients(gradients, bound=1.0, norm=other),
        ):
            with pytest.raises(PrivacyUnitError, match=f"{mechanism} noise hides .* got .*norm={other}"):
                release(clipped, source)


def test_less_than_one_share_is_refused() -> None:
    with pytest.raises(PlanError, match="shares=0"):
        SkellamMechanism(multiplier=1.0).noise(3, bound=1.0, source=keyed_source(0), shares=0)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("inf"), float("nan")])
def test_integer_mechanisms_without_noise_are_refused(multiplier: float) -> None:
    with pytest.raises(PlanError, match="multiplier > 0"):
        SkellamMechanism(multiplier=multiplier)


# Sizes.


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize(("multiplier", "bound"), [(1.0, 1.0), (0.7, 3.0), (5.0, 0.1)])
def test_noise_has_the_size_that_the_bound_asks_for(name: str, multiplier: float, bound: float) -> None:
    def released(factor: float, *, clipped: Clipped) -> NDArray:
        mechanism = Mechanism(name=name, multiplier=multiplier * factor)
        return mechanism.release(clipped, keyed_source(1, name))

    planned = multiplier * bound
    assert is_noise(released(1.0, clipped=zeros(name, bound=bound)), name, scale=planned)
    for factor in (2 / 3, 3 / 2):
        assert not is_noise(released(factor, clipped=zeros(name, bound=bound)), name, scale=planned)
        # And it is the value's bound that counts: nobody else says how large it is.
        other = zeros(name, bound=bound * factor)
        assert not is_noise(released(1.0, clipped=other), name, scale=planned)
        assert is_noise(released(1.0, clipped=other), name, scale=planned * factor)


# Variances of 1.0, where every integer is its own block, and of 10^6, where it shares one.
@pytest.mark.parametrize(("multiplier", "bound"), [(0.5, 2.0), (2.0, 500.0)])
def test_integer_noise_has_the_size_that_the_bound_asks_for(multiplier: float, bound: float) -> None:
    nothing = ClippedIntegers(value=np.zeros(DRAWS, np.int64), bound=bound)

    def released(factor: float) -> NDArray[np.int64]:
        mechanism = SkellamMechanism(multiplier=multiplier * factor)
        return mechanism.release(nothing, keyed_source(2, "skellam"))

    planned = multiplier * bound
    assert released(1.0).dtype == np.int64
    assert is_noise(released(1.0), "skellam", scale=planned)
    assert not is_noise(released(2 / 3), "skellam", scale=planned)
    assert not is_noise(released(3 / 2), "skellam", scale=planned)


@pytest.mark.parametrize("name", [*LAWS, "skellam"])
def test_noise_is_added_to_the_value(name: str) -> None:
    """With the same key, what is released for a value differs from that for nothing by the value."""
    if name == "skellam":
        mechanism = SkellamMechanism(multiplier=1.0)
        value = ClippedIntegers(value=np.array([3, -4, 0]), bound=5.0)
        nothing = ClippedIntegers(value=np.zeros(3, np.int64), bound=5.0)
    else:
        mechanism = Mechanism(name=name, multiplier=1.0)
        value = clip(np.array([3.0, -4.0, 0.0]), bound=5.0, norm=NORM[name])
        nothing = clip(np.zeros(3), bound=5.0, norm=NORM[name])
    moved = mechanism.release(value, keyed_source(3)) - mechanism.release(nothing, keyed_source(3))
    # Reals are of integers under 2^47, with steps of 5 · 2^-40: float64 has room for both.
    np.testing.assert_allclose(moved, value.value if name == "skellam" else value.reals, atol=1e-14)


def test_no_mechanism_adds_nothing() -> None:
    clipped = clip_rows(np.ones((4, 3)), bound=1.0, norm=1)
    none = Mechanism(name="none", multiplier=0.0)
    assert np.array_equal(none.release(clipped, keyed_source(0)), clipped.reals)


# Shapes: noise of one kind does not pass for another of the same variance.


@pytest.mark.parametrize(
    ("name", "other", "scale_of_other"),
    [
        ("gaussian", "laplace", 1 / sqrt(2)),
        ("laplace", "gaussian", sqrt(2)),
        ("skellam", "discrete_gaussian", 1.0),
    ],
)
def test_noise_has_its_own_shape(name: str, other: str, scale_of_other: float) -> None:
    source = keyed_source(4, name)
    if name == "skellam":
        draws = SkellamMechanism(multiplier=1.0).noise(DRAWS, bound=1.0, source=source)
    else:
        draws = Mechanism(name=name, multiplier=1.0).release(zeros(name, bound=1.0), source)
    assert is_noise(draws, name, scale=1.0)
    # Normal and Laplace cdfs of one variance lie 0.06 apart, Skellam's and the discrete Gaussian's
    # 0.033 (at 0, their probabilities are 0.466 and 0.399).
    assert not is_noise(draws, other, scale=scale_of_other)


# Shares.


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("shares", [2, 7])
def test_shares_of_skellam_noise_add_up_to_it(scale: float, shares: int) -> None:
    mechanism = SkellamMechanism(multiplier=scale)

    def total(of: int) -> NDArray[np.int64]:
        return sum(
            mechanism.noise(DRAWS, bound=1.0, source=keyed_source(5, site), shares=of)
            for site in range(shares)
        )

    assert is_noise(total(shares), "skellam", scale=scale)
    # Whole noise from every site is too much, and shares for twice as many sites too little.
    assert not is_noise(total(1), "skellam", scale=scale)
    assert not is_noise(total(2 * shares), "skellam", scale=scale)


def test_discrete_gaussian_shares_would_not_add_up() -> None:
    """Why sites draw Skellam noise: five of variance parameter 1/5 are no discrete Gaussian of 1."""
    total = sum(keyed_source(6, site).discrete_gaussian(DRAWS, std=sqrt(1 / 5)) for site in range(5))
    assert not is_noise(total, "discrete_gaussian", scale=1.0)


# Counts.


def test_counts_are_released_by_laplace_noise_for_one_unit() -> None:
    """One row a unit, with a 1 for the label that it has: no unit adds more than 1, wherever."""
    labels = np.eye(3)[np.arange(300) % 3]
    counts = clip_rows(labels, bound=1.0, norm=1)
    # A unit at the bound loses 2^-20 of it.
    np.testing.assert_allclose(counts.reals, [100.0, 100.0, 100.0], rtol=2.0**-19)

    mechanism = Mechanism(name="laplace", multiplier=2.0)
    draws = [mechanism.release(counts, keyed_source(7, n)) - counts.reals for n in range(DRAWS // 3)]
    noise = np.concatenate(draws)
    # Two draws short of DRAWS, which the tolerance does not notice.
    assert is_noise(noise, "laplace", scale=2.0)
    assert not is_noise(noise, "laplace", scale=2.0 * 2 / 3)
    assert not is_noise(noise, "laplace", scale=2.0 * 3 / 2)


def test_a_unit_that_claims_more_counts_for_its_bound() -> None:
    honest, greedy = np.array([[1.0], [1.0]]), np.array([[1.0], [1000.0]])
    found = clip_rows(greedy, bound=1.0, norm=1)
    assert np.array_equal(found.value, clip_rows(honest, bound=1.0, norm=1).value)


# What the document shows.


def test_the_document_runs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "mechanisms.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    shown = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "mechanisms.md", None, 0)
    assert len(shown.examples) > 5
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(shown)
    assert result.failed == 0
