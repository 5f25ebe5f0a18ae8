"""Whether examples were drawn as a plan says: each in each step, by a coin of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]

from privacy.errors import AuditError

# Made-up runs that a spread is compared with: a p-value from them is exact, and 0.001 at the least.
_RUNS = 1999


def draws_p_value(draws: NDArray[np.int64], *, steps: int, rate: float) -> float:
    """How likely it is, at most, that Poisson samples look as unusual as this: a p-value.

    ``draws``, int64[m], counts how often each of m examples was drawn in so many ``steps``. Under Poisson
    sampling at ``rate`` these are independent binomial numbers. Two things are looked at, each with half of
    the error. Their sum shows another rate. Their spread shows examples that are drawn oftener than others,
    where it is wide, and batches that go through all examples in turn, where it is narrow. Raises
    AuditError for counts that cannot be.

    Source: Besag and Clifford 1989, "Generalized Monte Carlo significance tests", for the exact p-value.
    """
    if draws.ndim != 1 or not len(draws) or draws.min() < 0 or draws.max() > steps:
        raise AuditError(f"expected a count from 0 to steps={steps} for each example, got {draws}")
    expected = steps * rate
    total = float(binomtest(int(draws.sum()), steps * len(draws), rate).pvalue)
    spread = float(np.square(draws - expected).sum())
    generator = np.random.default_rng(0)  # it makes up comparisons, and hides nothing
    made_up = np.square(generator.binomial(steps, rate, (_RUNS, len(draws))) - expected).sum(axis=1)
    at_least = (1 + int((made_up >= spread).sum())) / (1 + _RUNS)
    at_most = (1 + int((made_up <= spread).sum())) / (1 + _RUNS)
    return min(1.0, 2 * total, 4 * min(at_least, at_most))
