"""One Gaussian release over canaries that each have a coordinate of their own, as often as asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from privacy.audit.gaussian_pair import gaussian_epsilon

DELTA = 1e-5
CANARIES = 1000


def separation_of(epsilon: float) -> float:
    """How many deviations apart two Gaussians are that have just this ε."""
    return float(brentq(lambda apart: gaussian_epsilon(apart, delta=DELTA) - epsilon, 1e-3, 16.0))


def release(
    separation: float, repeats: int, *, seed: int, canaries: int = CANARIES
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores, float64[repeats, canaries], around 0 with a canary and below without; and who is in."""
    generator = np.random.default_rng(seed)
    present = generator.random((repeats, canaries)) < 0.5
    noise = generator.standard_normal((repeats, canaries))
    return separation * (present - 0.5) + noise, present
