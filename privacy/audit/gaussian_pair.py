"""How far apart two Gaussians are at least: a bound for scores that are Gaussian with a canary and without.

Where noise is Gaussian, so are scores that are linear in what is released, and counting right guesses
throws most of what they say away. Their separation, in deviations, is what privacy rests on. docs/audit.md
has the proof.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri  # type: ignore[import-untyped]
from scipy.stats import chi2  # type: ignore[import-untyped]

from privacy.audit.one_run import largest_refuted
from privacy.errors import AuditError

# Of the error, the part that the noise's size gets; the mean's distance gets the rest.
_FOR_NOISE = 0.25


def separation_bound(scores: NDArray[np.float64], weights: NDArray[np.float64], *, error: float) -> float:
    """A lower bound on a / s for scores that are b + a · weight + s · (standard normal numbers).

    ``scores`` and ``weights`` are float64[n], n > 2; a, b and s are unknown, and the normal numbers are
    independent of one another and of the weights. With weights of 1 for what is in and 0 for what is out,
    it is how far apart two Gaussians are. With probability 1 − ``error`` a / s is at least what is
    returned: 0 at the least, and infinite for scores that lie on a line. Raises AuditError for arrays that
    do not fit or are not finite.
    """
    if scores.shape != weights.shape or scores.ndim != 1 or len(scores) < 3:
        raise AuditError(f"expected a weight a score, 3 at least: got {scores.shape} and {weights.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
        raise AuditError("expected finite scores and weights: the run's results are not finite")
    x, y = weights - weights.mean(), scores - scores.mean()
    spread = math.sqrt(float(x @ x))
    if not spread:  # all are alike: nothing can be told apart
        return 0.0
    slope = float(x @ y) / spread**2
    if slope <= 0.0:
        return 0.0
    rest = y - slope * x
    squares, freedom = float(rest @ rest), len(scores) - 2
    # What float64 itself leaves of a line.
    if squares <= (1e-12 * slope * spread) ** 2:
        return math.inf
    largest_noise = math.sqrt(squares / float(chi2.ppf(_FOR_NOISE * error, freedom)))
    below = -float(ndtri((1.0 - _FOR_NOISE) * error))
    return max(0.0, slope / largest_noise - below / spread)


def gaussian_epsilon(separation: float, *, delta: float) -> float:
    """ε at ``delta`` of two Gaussians so many deviations apart, up to 100.

    Source: Balle and Wang 2018 (arXiv:1805.06530), Theorem 8.
    """
    if separation <= 0.0:
        return 0.0
    half = separation / 2.0

    def is_more(epsilon: float) -> bool:
        """Whether at this ε more than δ is left."""
        above = float(log_ndtr(half - epsilon / separation))
        below = epsilon + float(log_ndtr(-half - epsilon / separation))
        return math.exp(above) - math.exp(below) > delta

    return largest_refuted(is_more)


def pair_bound(
    scores: NDArray[np.float64], present: NDArray[np.bool_], *, delta: float, error: float
) -> float:
    """The ε at ``delta`` that scores show which are Gaussian, and as wide, with a canary and without.

    With probability 1 − ``error`` it is under that of the true pair, which no mechanism that made the
    scores goes below. Raises AuditError as ``separation_bound`` does.
    """
    found = separation_bound(scores, present.astype(np.float64), error=error)
    return gaussian_epsilon(found, delta=delta)
