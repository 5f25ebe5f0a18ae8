"""The curve of an attacker's scores: how many canaries it finds at how many false alarms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Curve = tuple[tuple[float, float], ...]


def roc_curve(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> Curve:
    """(false positive rate, true positive rate) at each threshold, from (0, 0) to (1, 1), corners alone.

    ``scores`` are float64[m], higher where a canary seems in, and ``present`` bool[m]. A canary is called
    in where its score is at least the threshold, so that equal scores are one step. With nobody in, or
    nobody out, that rate stays 0.

    >>> roc_curve(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False]))
    ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], present[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of each run of equal scores
    found, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    ins, outs = max(int(present.sum()), 1), max(int((~present).sum()), 1)
    x = np.concatenate([[0], false])
    y = np.concatenate([[0], found])
    ahead = np.diff(x) * 1j + np.diff(y)
    # A point in the middle of a straight stretch, across or up, is no corner.
    straight = ((ahead[1:].real == 0) & (ahead[:-1].real == 0)) | (
        (ahead[1:].imag == 0) & (ahead[:-1].imag == 0)
    )
    kept = np.concatenate([[True], ~straight, [True]])
    return tuple(zip((x[kept] / outs).tolist(), (y[kept] / ins).tolist(), strict=True))
