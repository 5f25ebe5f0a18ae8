"""Whether examples were drawn as a plan says: each in each step, by a coin of its own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp  # type: ignore[import-untyped]
from scipy.stats import binom, binomtest  # type: ignore[import-untyped]

from privacy.errors import AuditError

# Any slope gives a bound that holds: the best of these is close to the best of all.
_SLOPES = np.outer([1.0, -1.0], np.geomspace(1e-3, 1e3, 61)).ravel()


def draws_p_value(draws: NDArray[np.int64], *, steps: int, rate: float) -> float:
    """How likely it is, at most, that Poisson samples look as unusual as this: a p-value.

    ``draws``, int64[m], counts how often each of m examples was drawn in so many ``steps``. Under Poisson
    sampling at ``rate`` these are independent binomial numbers. Two things are looked at, each with half of
    the error. Their sum, by an exact test, shows another rate. Their spread, by Chernoff's bound, shows
    examples that are drawn oftener than others, where it is wide, and batches that go through all examples
    in turn, where it is narrow. Raises AuditError for counts that cannot be.
    """
    if draws.ndim != 1 or not len(draws) or draws.min() < 0 or draws.max() > steps:
        raise AuditError(f"expected a count from 0 to steps={steps} for each example, got {draws}")
    total = float(binomtest(int(draws.sum()), steps * len(draws), rate).pvalue)
    if rate == 1.0:
        return total  # there is one way to draw everyone
    expected, variance = steps * rate, steps * rate * (1.0 - rate)
    spread = float(np.square(draws - expected).sum()) / variance
    outcomes = np.arange(steps + 1)
    squares, logs = np.square(outcomes - expected) / variance, binom.logpmf(outcomes, steps, rate)
    bounds = len(draws) * logsumexp(logs + _SLOPES[:, None] * squares, axis=1) - _SLOPES * spread
    return min(1.0, 2.0 * total, 4.0 * math.exp(min(0.0, float(bounds.min()))))
