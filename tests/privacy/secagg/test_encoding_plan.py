"""Grids that follow from public numbers: as fine as the modulus allows, and no wrapping but as said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import PlanError
from privacy.mechanisms.rng import keyed_source
from privacy.mechanisms.skellam import SkellamMechanism, scale_for_modulus
from privacy.secagg.encoding import DEVIATIONS, Encoding
from privacy.secagg.hadamard import block_size
from tests.privacy.grids import SEED, example, normal, rounding_std, site, summed

# Refused.


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (make, changed)
        for make in (example, site)
        for changed in ({"bits": 64}, {"bits": 12}, {"sites": 0}, {"dimension": 0})
    ]
    + [
        (make, {name: number})
        for make, names in (
            (example, ("signal_l2", "noise_std", "largest")),
            (site, ("clipping_norm", "noise_multiplier")),
        )
        for name in names
        for number in (-1.0, math.nan, math.inf, 1e200)
    ]
    + [(example, {"signal_l2": 0.0}), (example, {"largest": 0.0}), (site, {"clipping_norm": 0.0})],
)
def test_plans_out_of_range_are_refused(make: Callable[..., Encoding], changed: dict[str, float]) -> None:
    (name,) = changed
    with pytest.raises(PlanError, match=f"{name}="):
        make(**changed)


def test_a_modulus_that_is_too_small_is_refused() -> None:
    for grid in (
        lambda: example(bits=32, sites=2**31),
        # 6 deviations of the rounding alone, √sites / 2 each, are over 2^15.
        lambda: example(bits=16, sites=120_000_000),
        lambda: site(bits=16, sites=120_000_000),
        # The noise that rounding asks for alone, z · √d / 2, has 6 deviations over 2^15.
        lambda: site(bits=16, noise_multiplier=5.0, dimension=5_000_000),
        lambda: site(bits=32, noise_multiplier=1e8),
        lambda: site(bits=32, sites=2**31, noise_multiplier=0.0),
    ):
        with pytest.raises(PlanError, match="expected"):
            grid()


# What a modulus holds.


@settings(max_examples=60)
@given(sites=st.integers(1, 10**6), largest=st.floats(1e-9, 1e9), beyond=st.sampled_from([1.0, 1.5, 1e6]))
def test_with_32_bits_a_sum_never_wraps_around(sites: int, largest: float, beyond: float) -> None:
    """Every site at its largest, or beyond it, on the same side; each sign."""
    grid = example(sites=sites, largest=largest, dimension=4)
    update = (np.array([1.0, 1.0, -1.0, -1.0]) * largest * beyond).astype(np.float32)
    found = grid.integers(update, keyed_source(0))
    assert sites * int(np.abs(found).max()) <= 2**31 - 1
    # And a site's share of the modulus is used but for a step or two.
    if beyond > 1.0:
        assert int(np.abs(found).min()) >= (2**31 - 1) / sites - 2


PLANS = {
    "bits": st.sampled_from([16, 20, 32]),
    "sites": st.integers(1, 300),
    "dimension": st.integers(1, 10**7),
    "clipping_norm": st.floats(1e-3, 1e3),
    "noise_multiplier": st.one_of(st.just(0.0), st.floats(0.01, 100.0)),
}


def deviation(grid: Encoding, *, sites: int, clipping_norm: float, noise_multiplier: float) -> float:
    """Of a coordinate of the noisy sum, in steps, from its three parts."""
    signal = sites * clipping_norm * grid.scale / math.sqrt(block_size(grid.dimension))
    return math.hypot(signal, noise_multiplier * grid.sensitivity(clipping_norm).l2, math.sqrt(sites) / 2)


@settings(max_examples=200)
@given(**PLANS)
def test_a_site_plan_fits_its_modulus(
    bits: int, sites: int, dimension: int, clipping_norm: float, noise_multiplier: float
) -> None:
    numbers = {"sites": sites, "clipping_norm": clipping_norm, "noise_multiplier": noise_multiplier}
    try:
        grid = site(bits=bits, dimension=dimension, **numbers)
    except PlanError:
        assume(False)
    assert grid.rotation == SEED
    # √ and squares in float64, in which the scale is solved for.
    taken = DEVIATIONS * deviation(grid, **numbers) / 2.0 ** (bits - 1)
    assert taken <= 1 + 1e-9
    bound = grid.sensitivity(clipping_norm).l2
    if bits < 32:
        assert taken >= 1 - 1e-9, "a coarser grid than the modulus asks for"
    else:
        assert sites * bound <= 2**31 - 1
    if noise_multiplier:
        # Drawable by all, and by the one site that draws all of it.
        noise = SkellamMechanism(multiplier=noise_multiplier)
        assert noise.variance(bound) <= 2.0**52
        noise.noise(1, bound=bound, source=keyed_source(0))


def test_a_site_plan_is_the_published_one_where_rounding_weighs_nothing() -> None:
    for noise_multiplier in (0.5, 1.0, 4.0):
        numbers = {"bits": 20, "sites": 10, "clipping_norm": 2.0, "noise_multiplier": noise_multiplier}
        published = scale_for_modulus(**numbers, dimension=2**13, deviations=DEVIATIONS)
        assert site(dimension=2**13, **numbers).scale == pytest.approx(published, rel=1e-3)
    # And it is finer than this one where rounding asks for noise of its own.
    numbers = {"bits": 16, "sites": 10, "clipping_norm": 2.0, "noise_multiplier": 4.0}
    published = scale_for_modulus(**numbers, dimension=2**20, deviations=DEVIATIONS)
    assert site(dimension=2**20, **numbers).scale < 0.95 * published


@pytest.mark.parametrize("bits", [16, 20])
@pytest.mark.parametrize("understated", [2.0, 3.0])
def test_a_sum_wraps_around_as_often_as_the_plan_says(bits: int, understated: float) -> None:
    """Noise of twice what the plan knows leaves 3 of its 6 deviations; of three times, 2."""
    size, sites = 20_000, 8
    grid = example(bits=bits, sites=sites, dimension=size, signal_l2=1e-3, noise_std=0.1)
    truth = [normal(size, seed=n) * np.float32(0.1 * understated) for n in range(sites)]
    source = keyed_source(0)
    words = summed(grid, [grid.integers(update, source) for update in truth])
    error = grid.mean(words, count=sites) - np.mean(truth, axis=0)
    # Rotated back, a wrapped coordinate is spread: its error, 2^bits steps, is found in the sum of squares.
    step = 2.0**bits / (grid.scale * sites)
    wrapped = float(np.sum(error**2)) / step**2

    def passes(left: float) -> bool:
        expected = size * 2 * stats.norm.sf(left)
        return abs(wrapped - expected) <= 5 * math.sqrt(
            expected
        )  # counts of rare things: Poisson's deviation

    assert 2 * math.exp(-(DEVIATIONS**2) / 2) < 3.1e-8, "what the docstrings promise"
    left = DEVIATIONS / understated
    assert passes(left)
    assert not passes(left * 2 / 3)
    assert not passes(left * 3 / 2)


@pytest.mark.parametrize("bits", [16, 20])
def test_as_planned_nothing_wraps_around(bits: int) -> None:
    size, sites = 20_000, 8
    grid = example(bits=bits, sites=sites, dimension=size, signal_l2=1.0, noise_std=0.1, largest=1.0)
    spike = (np.arange(size) == 5).astype(np.float32)  # every site's signal: the worst that the plan allows
    truth = [normal(size, seed=n) * np.float32(0.1) + spike for n in range(sites)]
    source = keyed_source(0)
    words = summed(grid, [grid.integers(update, source) for update in truth])
    error = grid.mean(words, count=sites) - np.mean(truth, axis=0)
    # A single one would show as 2^bits steps; rounding is a few deviations, √20,000 of them together.
    assert np.linalg.norm(error) < 2.0 * math.sqrt(size) * rounding_std(grid, count=sites)
    assert np.linalg.norm(error) < 0.1 * 2.0**bits / (grid.scale * sites)
