"""How well scores tell canaries that are in from those that are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from privacy.audit.many_runs import rate_interval
from privacy.errors import AuditError


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A rate and the two ends of its interval."""

    value: float
    low: float
    high: float


def auc(scores: NDArray[np.float64], present: NDArray[np.bool_], *, error: float) -> Rate:
    """How likely a canary that is in scores higher than one that is not; ties count half.

    The interval is by normal approximation: right for many canaries, and cut to [0, 1]. Raises AuditError
    unless there are two of either at least.

    Source: DeLong, DeLong and Clarke-Pearson 1988.
    """
    ins, outs = _apart(scores, present)
    m, n = len(ins), len(outs)
    ranks = rankdata(np.concatenate([ins, outs]))
    above = (ranks[:m] - rankdata(ins)) / n  # of each that is in, the share of the others under it
    below = 1.0 - (ranks[m:] - rankdata(outs)) / m
    value = float(above.mean())
    deviation = math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
    wide = -float(ndtri(error / 2)) * deviation
    return Rate(value=value, low=max(0.0, value - wide), high=min(1.0, value + wide))


def tpr_at(scores: NDArray[np.float64], present: NDArray[np.bool_], *, fpr: float, error: float) -> Rate:
    """Of the canaries that are in, the share above all but a share ``fpr`` of the others.

    The interval is Clopper and Pearson's for the threshold that was taken. Where a share ``fpr`` of the
    others is less than one, the threshold is the highest of them. Raises AuditError as ``auc`` does.
    """
    ins, outs = _apart(scores, present)
    allowed = math.floor(fpr * len(outs))
    threshold = np.sort(outs)[len(outs) - 1 - allowed]
    hits = int((ins > threshold).sum())
    low, high = rate_interval(hits, len(ins), error=error)
    return Rate(value=hits / len(ins), low=low, high=high)


def roc(
    scores: NDArray[np.float64], present: NDArray[np.bool_], *, rates: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Points of the curve, each a false positive rate and the true one: one for each of ``rates``.

    Those of ``rates`` that so few of the others cannot show are left out. Raises AuditError as ``auc``
    does.
    """
    ins, outs = _apart(scores, present)
    falling = np.sort(outs)[::-1]
    found = []
    for rate in rates:
        allowed = math.floor(rate * len(outs))
        if allowed == 0:
            continue
        threshold = falling[allowed] if allowed < len(outs) else -math.inf
        found.append((allowed / len(outs), float((ins > threshold).mean())))
    return tuple(found)


def _apart(
    scores: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ins, outs = scores[present], scores[~present]
    if min(len(ins), len(outs)) < 2:
        raise AuditError(f"expected two canaries in and two out at least, got {len(ins)} and {len(outs)}")
    return ins, outs
