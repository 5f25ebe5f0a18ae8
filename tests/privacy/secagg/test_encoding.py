"""Integers for updates: exact sums, fair rounding, and bounds that hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from privacy.errors import PlanError, PrivacyUnitError, ProtocolError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.rng import keyed_source
from privacy.mechanisms.skellam import SkellamMechanism, rounded_sensitivity
from privacy.secagg import encoding
from privacy.secagg.encoding import Encoding
from privacy.secagg.ring import Ring
from tests.privacy.grids import SEED, example, normal, plain, rounding_std, site, squares, summed

# Refused.


@pytest.mark.parametrize(
    "changed",
    [
        {"dimension": 0},
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": math.inf},
        {"scale": math.nan},
        {"reach": 0.0},
        {"reach": math.nan},
    ],
)
def test_numbers_that_make_no_grid_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=f"{next(iter(changed))}={next(iter(changed.values()))}"):
        plain(**changed)


@pytest.mark.parametrize("make", [lambda seed: plain(rotation=seed), lambda seed: site(rotation_seed=seed)])
def test_other_seeds_are_refused(make: Callable[[bytes], Encoding]) -> None:
    with pytest.raises(ProtocolError, match="32 bytes, got 31"):
        make(bytes(31))


@pytest.mark.parametrize("update", [np.ones(99, np.float32), np.ones((1, 100), np.float32)])
def test_vectors_of_another_length_are_refused(update: NDArray) -> None:
    grid, source = plain(), keyed_source(0)
    for use in (
        lambda: grid.integers(update, source),
        lambda: grid.clipped_integers(update, clipping_norm=1.0, source=source),
        lambda: grid.words(update.astype(np.int64)),
        lambda: grid.mean(update.astype(np.uint32), count=1),
    ):
        with pytest.raises(ProtocolError, match="a vector of 100 numbers"):
            use()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused_or_becomes_zero(wrong: float) -> None:
    update = normal(100)
    update[3] = wrong
    for grid in (example(), example(bits=16), site()):
        with pytest.raises(ProtocolError, match="NaN or infinity"):
            grid.integers(update, keyed_source(0))
        found = grid.clipped_integers(update, clipping_norm=1.0, source=keyed_source(0))
        assert not found.value.any()
        assert found.bound == grid.sensitivity(1.0).l2


@pytest.mark.parametrize("count", [0, -1])
def test_a_mean_of_nobody_is_refused(count: int) -> None:
    with pytest.raises(ProtocolError, match=f"count={count}"):
        plain().mean(np.zeros(100, np.uint32), count=count)


# Sums are exact.


@settings(max_examples=50)
@given(
    bits=st.sampled_from([16, 20, 32]),
    rows=arrays(
        np.int64, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.integers(-4095, 4095)
    ),
    rotation=st.sampled_from([None, SEED]),
)
def test_the_sum_of_words_is_the_sum_of_integers(bits: int, rows: NDArray, rotation: bytes | None) -> None:
    """Eight integers up to 4,095 stay under 2^15."""
    grid = Encoding(ring=Ring(bits), dimension=rows.shape[1], scale=64.0, rotation=rotation)
    words = summed(grid, list(rows))
    assert np.array_equal(grid.ring.centred(words), rows.sum(axis=0))

    mean = grid.mean(words, count=len(rows))
    assert mean.dtype == np.float32
    if rotation is None:
        assert np.array_equal(mean, (rows.sum(axis=0) / (64.0 * len(rows))).astype(np.float32))
    else:
        # float32 rounds by 2^-24 of a number; the rotation's own rounding is far below.
        norm = np.linalg.norm(rows.sum(axis=0)) / (64.0 * len(rows))
        assert abs(np.linalg.norm(mean.astype(np.float64)) - norm) <= 2.0**-23 * norm


def test_one_site_never_overflows() -> None:
    update = np.full(4, 3e38, np.float32)
    for grid in (
        plain(dimension=4, scale=1e12),
        example(bits=16, dimension=4),
        plain(dimension=4, reach=1e30),
    ):
        found = grid.integers(update, keyed_source(0))
        assert -(2**52) <= int(found.min()) <= int(found.max()) <= 2**52
        clipped = grid.clipped_integers(-update, clipping_norm=0.1, source=keyed_source(0))
        assert squares(clipped.value) <= clipped.bound**2


def test_what_is_beyond_the_reach_is_cut_off_and_nothing_else_is() -> None:
    grid = plain(dimension=5, reach=2.0, scale=8.0)
    update = np.array([-100.0, -2.0, 1.5, 2.0, 2.125], np.float32)
    assert grid.integers(update, keyed_source(0)).tolist() == [-16, -16, 12, 16, 16]


# Rounding is fair.


@pytest.mark.parametrize("number", [0.3, -0.3, 7.5, -1000.9, 0.0, 4.0])
def test_an_integer_is_expected_to_be_its_number(number: float) -> None:
    size = 40_000
    grid = plain(scale=1.0, dimension=size)
    update = np.full(size, number, np.float32)
    found = grid.integers(update, keyed_source(0))
    exact = float(update[0])
    part = exact - math.floor(exact)
    assert set(np.unique(found)) <= {math.floor(exact), math.ceil(exact)}
    # A coin of odds ``part``: 5 of its deviations fail once in a million.
    assert abs(found.mean() - exact) <= 5 * math.sqrt(part * (1 - part) / size)


def test_rounding_in_blocks_is_rounding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, grid = normal(1000), plain(dimension=1000)
    at_once = grid.integers(numbers, keyed_source(1))
    for block in (1, 7, 500, 999):
        monkeypatch.setattr(encoding, "_BLOCK", block)
        assert (grid.integers(numbers, keyed_source(1)) == at_once).all()


def test_rounding_to_the_nearest_would_not_be_fair() -> None:
    """Control for the test above."""
    assert abs(np.rint(np.full(40_000, 0.3)).mean() - 0.3) > 5 * math.sqrt(0.21 / 40_000)


@pytest.mark.parametrize("rotation", [None, SEED])
@pytest.mark.parametrize("count", [1, 7])
def test_rounding_adds_the_deviation_that_is_promised(rotation: bytes | None, count: int) -> None:
    size = 20_000
    grid = plain(scale=1024.0, dimension=size, rotation=rotation)
    # Halves of steps are where rounding is worst; after a rotation parts of steps are even, and their
    # variance is the mean of p(1 - p) over [0, 1], 1/6 in place of 1/4.
    updates = [
        (np.round(normal(size, seed=n) * 1000) + 0.5).astype(np.float32) / 1024 for n in range(count)
    ]
    expected = rounding_std(grid, count=count) * (1.0 if rotation is None else math.sqrt(4 / 6))
    source = keyed_source(0, count)
    words = summed(grid, [grid.integers(update, source) for update in updates])
    error = grid.mean(words, count=count) - np.mean(np.array(updates, np.float64), axis=0)
    # The mean of 20,000 errors, and that of their squares, whose deviation is at most √2 of them.
    assert abs(error.mean()) <= 5 * expected / math.sqrt(size)
    found = float(np.mean(error**2))
    assert abs(found / expected**2 - 1) <= 5 * math.sqrt(2 / size)
    for wrong in (2 / 3, 3 / 2):
        assert abs(found / (wrong * expected) ** 2 - 1) > 5 * math.sqrt(2 / size)


# A site's integers are never longer than their bound.


def adversarial(dimension: int, clipping_norm: float, grid: Encoding) -> dict[str, NDArray]:
    equal = np.full(dimension, clipping_norm / math.sqrt(dimension))
    near_half = np.full(dimension, 0.5001 / grid.scale)
    return {
        "equal": equal,
        "far over": equal * 1e6,
        "spike": clipping_norm * (np.arange(dimension) == dimension // 2),
        "just over halves of a step": near_half,
        "just under a step": near_half * 1.9998,
        "normal": normal(dimension) * clipping_norm,
        "nothing": np.zeros(dimension),
    }


@settings(max_examples=40, deadline=None)
@given(
    dimension=st.integers(1, 200),
    steps=st.floats(0.25, 1e6),
    clipping_norm=st.floats(1e-3, 1e3),
    rotation=st.sampled_from([None, SEED]),
    seed=st.integers(0, 1000),
)
def test_the_bound_is_never_exceeded(
    dimension: int, steps: float, clipping_norm: float, rotation: bytes | None, seed: int
) -> None:
    grid = plain(dimension=dimension, scale=steps / clipping_norm, rotation=rotation)
    bound = rounded_sensitivity(l2_bound=clipping_norm * grid.scale, dimension=dimension).l2
    for update in adversarial(dimension, clipping_norm, grid).values():
        found = grid.clipped_integers(
            update.astype(np.float32), clipping_norm=clipping_norm, source=keyed_source(seed)
        )
        assert found.bound == bound
        assert squares(found.value) <= bound**2 * (1 + 1e-12)  # float64's rounding of the bound itself


@settings(max_examples=30, deadline=None)
@given(values=arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=True)), seed=st.integers(0, 99))
def test_the_bound_holds_for_whatever_comes(values: NDArray, seed: int) -> None:
    grid = plain(dimension=6, scale=3.7, rotation=SEED)
    found = grid.clipped_integers(values, clipping_norm=1.3, source=keyed_source(seed))
    assert squares(found.value) <= grid.sensitivity(1.3).l2 ** 2 * (1 + 1e-12)


def test_rounding_once_would_break_the_bound() -> None:
    """Control: both numbers are rounded up with a probability of 0.09, and √2 is over the bound."""
    grid = plain(dimension=2, scale=1.0)
    update = np.array([0.3, 0.3], np.float32)
    bound = grid.sensitivity(0.43).l2
    assert bound < math.sqrt(2)
    source = keyed_source(0)
    # 300 draws without such a one: 5e-13.
    once = [squares(grid.integers(update, source)) for _ in range(300)]
    assert max(once) > bound**2
    repeated = [grid.clipped_integers(update, clipping_norm=0.43, source=source) for _ in range(300)]
    assert {squares(found.value) for found in repeated} == {0, 1}


def test_rounding_that_never_fits_still_keeps_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def always_up(numbers: NDArray, generator: np.random.Generator) -> NDArray:
        attempts.append(generator)
        return np.ceil(numbers).astype(np.int64)

    monkeypatch.setattr(encoding, "_rounded", always_up)
    grid = plain(dimension=400, scale=1.0)
    update = np.full(400, 0.5001, np.float32)
    found = grid.clipped_integers(update, clipping_norm=11.0, source=keyed_source(0))
    assert not found.value.any()
    with pytest.raises(
        PrivacyUnitError, match="expected an integer vector"
    ):  # what else it would have been
        ClippedIntegers(value=always_up(update, attempts[0]), bound=found.bound)
    # An attempt fails with probability at most e^-½, the docstring of ``rounded_sensitivity``.
    tried = len(attempts) - 1
    assert math.exp(-0.5) ** tried < 2.0**-64 < math.exp(-0.5) ** (tried - 1)


# The whole way of a site's update.


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_a_sum_holds_the_mean_and_the_noise_that_was_planned(bits: int) -> None:
    size, sites, multiplier = 20_000, 5, 2.0
    grid = site(bits=bits, sites=sites, dimension=size, noise_multiplier=multiplier, clipping_norm=0.5)
    mechanism = SkellamMechanism(multiplier=multiplier)
    source = keyed_source(0, bits)
    updates = [normal(size, seed=n) for n in range(sites)]
    shares = [
        mechanism.release(
            grid.clipped_integers(update, clipping_norm=0.5, source=source), source, shares=sites
        )
        for update in updates
    ]
    mean = grid.mean(summed(grid, shares), count=sites)
    clipped = [0.5 * update / np.linalg.norm(update.astype(np.float64)) for update in updates]
    error = mean - np.mean(clipped, axis=0)
    noise = multiplier * grid.sensitivity(0.5).l2 / grid.scale / sites
    expected = math.hypot(noise, rounding_std(grid, count=sites) * math.sqrt(4 / 6))
    # The mean of 20,000 squares of normals has a deviation of √(2/20,000) = 1 %.
    found = float(np.mean(error**2))
    assert abs(found / expected**2 - 1) <= 5 * math.sqrt(2 / size)
    for wrong in (2 / 3, 3 / 2):
        assert abs(found / (wrong * expected) ** 2 - 1) > 5 * math.sqrt(2 / size)


def test_the_same_source_gives_the_same_integers_and_another_one_others() -> None:
    grid = plain(scale=0.7)
    first, again, other = (grid.integers(normal(100), keyed_source(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
