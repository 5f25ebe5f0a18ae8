"""Correlated noise: what leaves is a function of Cx + z, and its covariance is the matrix's."""

from __future__ import annotations

from fractions import Fraction
from math import floor, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.accounting.band_design import weighted_noise
from privacy.errors import PlanError
from privacy.mechanisms.banded_noise import COARSE_STEPS, ONE, BandedNoise, column_norm
from privacy.mechanisms.clipping import STEPS, ClippedSum

SEED, OTHER = bytes(range(32)), bytes(range(1, 33))
COEFFICIENTS = (ONE, 2600, 1500)
STEP_COUNT, WIDTH = 7, 40_000
WEIGHTS = np.linspace(1.0, 0.0, STEP_COUNT, endpoint=False)
# The relative error of a variance that n draws estimate is normal with deviation √(2/n): six of them.
TOLERANCE = 6 * sqrt(2 / WIDTH)


def made(seed: bytes = SEED, *, multiplier: float = 1.5) -> BandedNoise:
    return BandedNoise(seed, coefficients=COEFFICIENTS, multiplier=multiplier)


def clipped(value: list[int]) -> ClippedSum:
    sums = (torch.tensor(value, dtype=torch.int64),)
    return ClippedSum(tensors=sums, bound=1.0, norm=2, zeroed=0, steps=COARSE_STEPS)


def matrix() -> NDArray[np.float64]:
    """C⁻¹, from C written out."""
    c = np.zeros((STEP_COUNT, STEP_COUNT))
    for j, one in enumerate(COEFFICIENTS):
        c += np.diag(np.full(STEP_COUNT - j, one / ONE), -j)
    return np.linalg.inv(c)


def noise_of(noise: BandedNoise) -> NDArray[np.float64]:
    """All steps' noise in clipping norms, float64[steps, width]."""
    return np.array([noise.at(index, (WIDTH,)) for index in range(STEP_COUNT)]) / STEPS


class RedrawsThePast(BandedNoise):
    """Broken: what is taken back was made anew, and is not what left."""

    def at(self, index: int, sizes: tuple[int, ...]) -> NDArray[np.int64]:
        last = BandedNoise(OTHER, coefficients=COEFFICIENTS, multiplier=1.5)
        last.at(max(index - 1, 0), sizes)
        self._sizes, self._last = sizes, last._last if index else self._last
        return self._drawn(index) - self._taken_back(sum(sizes))


@pytest.mark.parametrize("seed", range(8))
def test_what_leaves_is_a_function_of_what_has_left_and_of_one_row_of_cx_plus_z(seed: int) -> None:
    """In whole numbers and fractions, not a bit off: the proof's equation for x̂."""
    sums = np.random.default_rng(seed).integers(-(2**40), 2**40, (STEP_COUNT, 3)).tolist()
    noise, independent = made(), made()
    independent.at(0, (3,))
    left: list[list[int]] = []
    for t in range(STEP_COUNT):
        x = [clipped(one).refined(ONE).tensors[0].tolist() for one in sums[: t + 1]]
        z = independent._drawn(t).tolist()
        found = noise.at(t, (3,)).tolist()
        left.append([a + b for a, b in zip(x[t], found, strict=True)])
        for place in range(3):
            row = sum(Fraction(c, ONE) * x[t - j][place] for j, c in enumerate(COEFFICIENTS) if j <= t)
            assert row.denominator == 1
            back = sum(
                Fraction(c, ONE) * left[t - j][place] for j, c in enumerate(COEFFICIENTS) if 0 < j <= t
            )
            assert left[t][place] == row + z[place] - floor(back + Fraction(1, 2))


def test_the_noise_has_the_matrix_covariance() -> None:
    draws, inverse = noise_of(made()), matrix()
    # Each step's z is 1.5 · ‖c‖ clipping norms.
    expected = (1.5 * np.linalg.norm(np.array(COEFFICIENTS) / ONE)) ** 2 * inverse @ inverse.T
    deviations = np.sqrt(np.diag(expected))
    difference = (draws @ draws.T / WIDTH - expected) / np.outer(deviations, deviations)
    assert np.abs(difference).max() < TOLERANCE
    for wrong in (2 / 3, 3 / 2):
        scaled = wrong**2 * draws @ draws.T / WIDTH
        assert np.abs(scaled / np.outer(deviations, deviations) - expected).max() > TOLERANCE


def last_adapter(noise: BandedNoise) -> float:
    """The variance of the noise in the last adapter, over the plan's."""
    found = (WEIGHTS @ noise_of(noise)).var()
    return float(found / (1.5 * weighted_noise(COEFFICIENTS, WEIGHTS)) ** 2)


def test_the_last_adapter_has_the_noise_that_is_planned() -> None:
    ratio = last_adapter(made())
    assert ratio == pytest.approx(1.0, abs=TOLERANCE)
    assert all(abs(wrong**2 * ratio - 1.0) > TOLERANCE for wrong in (2 / 3, 3 / 2))
    # Less than independent noise of one step's size, and so the planned ratio is not that of such noise.
    assert weighted_noise(COEFFICIENTS, WEIGHTS) < 0.8 * np.linalg.norm(WEIGHTS)


def test_noise_that_takes_another_past_back_is_caught() -> None:
    broken = RedrawsThePast(SEED, coefficients=COEFFICIENTS, multiplier=1.5)
    assert last_adapter(broken) > 1.0 + 10 * TOLERANCE


def test_a_process_that_begins_anew_makes_the_same_noise() -> None:
    noise = made()
    whole = [noise.at(index, (2, 3)) for index in range(5)]
    for index in (4, 0, 3, 3):
        assert (made().at(index, (2, 3)) == whole[index]).all()
        assert (noise.at(index, (2, 3)) == whole[index]).all()


def test_each_index_and_each_seed_has_noise_of_its_own() -> None:
    drawn = [made(seed).at(index, (50,)) for seed in (SEED, OTHER) for index in range(3)]
    assert len({one.tobytes() for one in drawn}) == 6


def test_a_released_sum_is_on_the_fine_grid_and_keeps_its_shapes() -> None:
    value = ClippedSum(
        tensors=(torch.ones(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        bound=0.5,
        norm=2,
        zeroed=0,
        steps=COARSE_STEPS,
    )
    first, second = made().release(value, 4)
    noise = made().at(4, (4, 3))
    assert first.shape == (2, 2)
    assert (first.flatten().numpy() == (noise[:4] + ONE) * (0.5 / STEPS)).all()
    assert (second.numpy() == noise[4:] * (0.5 / STEPS)).all()


@pytest.mark.parametrize("steps", [STEPS, COARSE_STEPS / 2])
def test_a_sum_on_another_grid_is_refused(steps: float) -> None:
    """On the finer grid Cx would not be whole, and what leaves would tell of more than Cx + z."""
    value = ClippedSum(
        tensors=(torch.zeros(3, dtype=torch.int64),), bound=1.0, norm=2, zeroed=0, steps=steps
    )
    with pytest.raises(PlanError, match="expected a sum on a grid of"):
        made().release(value, 0)


@pytest.mark.parametrize(
    "coefficients", [(), (ONE,), (ONE + 1, 5), (ONE, 3, 4), (ONE, -1), (ONE, ONE + 1), (ONE,) * 65]
)
def test_impossible_coefficients_are_refused(coefficients: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="coefficients from 4096"):
        BandedNoise(SEED, coefficients=coefficients, multiplier=1.0)


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(PlanError, match="a seed of 32 bytes, got 31"):
        made(SEED[1:])


@given(back=st.lists(st.integers(0, ONE), min_size=1, max_size=8))
def test_a_columns_norm_is_never_rounded_down(back: list[int]) -> None:
    exact = sum(one * one for one in (ONE, *back))
    found = Fraction(column_norm((ONE, *back))) * ONE
    assert exact <= found**2 <= exact * (1 + Fraction(1, 2**50))
