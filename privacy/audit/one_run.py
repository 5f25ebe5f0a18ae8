"""What right guesses at one run's canaries prove of (ε, δ)-differential privacy, whatever the mechanism.

Source: Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run" (arXiv:2305.08846).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom  # type: ignore[import-untyped]

from privacy.audit.guesses import Guesses

# No bound is looked for above it, nor closer than this to where it is.
EPSILON_MAX = 100.0
_CLOSE = 1e-4


def p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """The most likely that an (ε, δ)-private mechanism makes so many guesses right, by chance.

    Source: Theorem 5.2 there, with the δ term at its largest.
    """
    made, right = guesses.made, guesses.right
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    at_least = binom.sf(np.arange(right, -1, -1) - 1, made, accuracy)  # of right, right - 1, …, 0
    gains = (at_least[1:] - at_least[0]) / np.arange(1, right + 1)
    worst = max(0.0, float(gains.max(initial=0.0)))
    return min(1.0, float(at_least[0]) + 2.0 * guesses.canaries * delta * worst)


def one_run_bound(guesses: Guesses, *, delta: float, error: float) -> float:
    """The ε that these guesses refute: with probability 1 − ``error`` it is under the true one.

    Nothing is assumed of the mechanism but that canaries are in or out independently, each with
    probability ½.
    """
    return largest_refuted(lambda epsilon: p_value(guesses, epsilon=epsilon, delta=delta) <= error)


def best_of(bound: Callable[[Guesses, float], float], several: Sequence[Guesses], *, error: float) -> float:
    """The largest of several ``bound(guesses, error)``, each at its share of the ``error`` (Bonferroni)."""
    return max(bound(guesses, error / len(several)) for guesses in several)


def largest_refuted(refuted: Callable[[float], bool], *, most: float = EPSILON_MAX) -> float:
    """The largest number in [0, ``most``] that is refuted, if all below it are; 0 if none is."""
    if not refuted(0.0):
        return 0.0
    if refuted(most):
        return most
    low, high = 0.0, most
    while high - low > _CLOSE * max(1.0, low):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
