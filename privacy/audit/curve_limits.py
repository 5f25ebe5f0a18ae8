"""The most that any attack can reach against a mechanism whose trade-off curve is known."""

from __future__ import annotations

import numpy as np

from privacy.audit.f_dp import Curve

# How finely the area under a curve is added up: it is off by no more than one part of so many.
_PARTS = 4000


def most_true(curve: Curve, *, false: float) -> float:
    """The largest true positive rate at a false positive rate of ``false``.

    Source: Dong, Roth and Su 2022 (arXiv:1905.02383), definition 2.1: the curve is the least false positive
    rate by the true one, and rises with it.
    """
    low, high = false, 1.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if curve(middle) <= false else (low, middle)
    return low


def most_auc(curve: Curve) -> float:
    """The largest area under an attack's curve of true over false positive rates.

    It is what is left of the least false positive rates, and rounded up.
    """
    rates = np.arange(_PARTS) / _PARTS
    return 1.0 - float(np.mean([curve(float(rate)) for rate in rates]))
