"""An attack on what a noisy sum is divided by: its width tells the denominator."""

from __future__ import annotations

import numpy as np

from privacy.mechanisms.clipping import clip_rows
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from tests.museum.looks import coins, many_runs

RUNS = 300
MULTIPLIER = 3.730632  # ε = 1 at δ = 1e-5


def by_width(*, without: int, with_canary: int) -> float:
    """ε shown by runs that divide by one number without the canary and by another with it.

    The width is measured where no gradient is, and the threshold lies between what the two make of it.
    """
    mechanism, size = Mechanism(name="gaussian", multiplier=MULTIPLIER), 500
    present, narrow = coins(RUNS), np.zeros(RUNS, bool)
    for run in range(RUNS):
        rows = np.zeros((2 + present[run], size))
        rows[:, 0] = 1.0
        clipped = clip_rows(rows, bound=1.0, norm=2)
        released = mechanism.release(clipped, keyed_source(7, "width", run))
        width = float(np.std(released[1:])) / (with_canary if present[run] else without)
        narrow[run] = width < MULTIPLIER * 0.5 * (1 / without + 1 / with_canary)
    return many_runs(narrow if with_canary >= without else ~narrow, present)
