"""Noise that a trusted coordinator adds to the sum, so that its adapter hides each site as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from privacy.clipping import Clipped
from privacy.noise import NoiseSource, fresh_source, keyed_source
from privacy.plan import Plan
from protocol.manifest import Manifest

# Where a round's noise comes from.
Entropy = Callable[[int], NoiseSource]


def central_entropy(manifest: Manifest) -> Entropy:
    """Fresh noise for every round; in a simulation that asks for it, noise that repeats."""
    seed = manifest.job.seeds.noise
    if seed is None:
        return lambda _number: fresh_source()
    return lambda number: keyed_source(seed, "coordinator", number)


def add_central_noise(
    mean: NDArray[np.float32], *, plan: Plan, bound: float, count: int, source: NoiseSource
) -> NDArray[np.float32]:
    """The mean of ``count`` updates, float32[d], each of L2 norm ``bound`` at most, with the plan's noise.

    The noise hides one site in the sum, so it is as many times smaller in the mean as there are sites.
    """
    of_mean = Clipped(value=mean.astype(np.float64), bound=bound / count, norm=2)
    return plan.mechanism.release(of_mean, source).astype(np.float32)
