"""Which coefficients correlated noise has: those with which least of it is left in the last adapter.

The last adapter is the first one and w₀x̂₀ + w₁x̂₁ + …, the w being the steps' learning rates. Its noise is
wᵀC⁻¹z, whose length is ‖C⁻ᵀw‖ times that of z; and z is ‖c‖ times as long as noise of one step's sums
would be (``privacy.mechanisms.banded_noise``). So the product of both is made small.

Source: Choquette-Choo et al. 2023 (arXiv:2306.08153), section 4, for one row of the workload in place of
all: the last adapter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.banded_noise import ONE, check_coefficients, column_norm

Floats = NDArray[np.float64]

# Coefficients are sought for so many steps at most; more have about the same best ones.
_SOUGHT = 4096
# Coefficients are so many units of 2^-12 apart, which changes the noise by a relative 1e-4: so that last
# bits of a search, which differ from machine to machine, hardly ever make another plan.
_APART = 32


def design_bands(weights: Floats, *, bands: int) -> tuple[int, ...]:
    """The best c of so many bands for steps of these weights, float64[steps], in units of 2^-12.

    By quasi-Newton steps from the square root of the matrix of all ones, which is near it. Raises
    PlanError for less than two bands or more than 64.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    if len(weights) > _SOUGHT:
        weights = np.interp(np.linspace(0, len(weights) - 1, _SOUGHT), np.arange(len(weights)), weights)
    weights = weights / np.linalg.norm(weights)
    root = np.cumprod([(2 * j - 1) / (2 * j) for j in range(1, bands)])
    found = minimize(
        lambda back: _objective(back, weights),
        root,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(root),
    )
    near = _APART * np.rint(np.clip(found.x, 0.0, 1.0) * (ONE // _APART)).astype(int)
    whole = np.minimum.accumulate(near)
    coefficients = (ONE, *map(int, whole))
    check_coefficients(coefficients)
    return coefficients


def _objective(back: Floats, weights: Floats) -> tuple[float, Floats]:
    """‖c‖² · ‖C⁻ᵀw‖², and its derivative by each c but the first."""
    left = _solved_upwards(np.r_[1.0, back], weights)
    again = _solved(np.r_[1.0, back], left)
    norm, length, n = 1.0 + float(back @ back), float(left @ left), len(weights)
    shifted = np.array([again[: n - j] @ left[j:] if j < n else 0.0 for j in range(1, len(back) + 1)])
    return norm * length, 2.0 * back * length - 2.0 * norm * shifted


def weighted_noise(coefficients: Sequence[int], weights: Floats) -> float:
    """The deviation of Σ w·n over that of one step's independent noise: ‖c‖ · ‖C⁻ᵀw‖.

    For independent noise that is ‖w‖.
    """
    left = _solved_upwards(np.array(coefficients) / ONE, weights)
    return column_norm(coefficients) * float(np.linalg.norm(left))


@lru_cache(maxsize=256)
def step_noise(coefficients: tuple[int, ...], steps: int) -> float:
    """The same of the step that has the most of ``steps``, the last: ‖c‖ times the norm of C⁻¹'s row."""
    one = np.zeros(steps)
    one[0] = 1.0
    row = _solved(np.array(coefficients) / ONE, one)
    return column_norm(coefficients) * float(np.linalg.norm(row))


def _solved(c: Floats, right: Floats) -> Floats:
    """C⁻¹ · right."""
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    return np.asarray(lfilter([1.0], c, right))


def _solved_upwards(c: Floats, right: Floats) -> Floats:
    """C⁻ᵀ · right: a Toeplitz matrix's transpose is itself, read backwards."""
    return _solved(c, right[::-1])[::-1]
