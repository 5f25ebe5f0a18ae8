"""How well scores tell who is in from who is not: the curve, the area under it, and rates of hits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from privacy.audit.many_runs import rate_interval
from privacy.errors import AuditError

# Points (false positive rate, true positive rate).
RocCurve = tuple[tuple[float, float], ...]

# A longer curve keeps so many of its corners: all at its beginning, and further on fewer and fewer.
_CORNERS = 400


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A rate and the two ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How well the scores of the attack ``name`` tell who is in: intervals are each at one confidence."""

    name: str
    auc: Rate
    tpr_at_permille: Rate
    tpr_at_percent: Rate
    curve: RocCurve


def rate_scores(
    name: str, scores: NDArray[np.float64], present: NDArray[np.bool_], *, error: float
) -> Rates:
    """The rates of one attack's scores, float64[m], by who is ``present``, bool[m].

    Each interval is wrong with a probability of ``error`` at most. Raises AuditError unless there are two
    of either at least.
    """
    return Rates(
        name=name,
        auc=auc(scores, present, error=error),
        tpr_at_permille=tpr_at(scores, present, fpr=0.001, error=error),
        tpr_at_percent=tpr_at(scores, present, fpr=0.01, error=error),
        curve=roc_curve(scores, present),
    )


def auc(scores: NDArray[np.float64], present: NDArray[np.bool_], *, error: float) -> Rate:
    """How likely one that is in scores higher than one that is not; ties count half.

    The interval is by normal approximation: right for many, and cut to [0, 1]. Raises AuditError unless
    there are two of either at least.

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
    """Of those that are in, the share above all but a share ``fpr`` of the others.

    The interval is Clopper and Pearson's for the threshold that was taken. Where a share ``fpr`` of the
    others is less than one, the threshold is the highest of them. Raises AuditError as ``auc`` does.
    """
    ins, outs = _apart(scores, present)
    allowed = math.floor(fpr * len(outs))
    threshold = np.sort(outs)[len(outs) - 1 - allowed]
    hits = int((ins > threshold).sum())
    low, high = rate_interval(hits, len(ins), error=error)
    return Rate(value=hits / len(ins), low=low, high=high)


def roc_curve(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> RocCurve:
    """(false positive rate, true positive rate) at each threshold, from (0, 0) to (1, 1), corners alone.

    ``scores`` are float64[m], higher where one seems in, and ``present`` bool[m]. One is called in where
    its score is at least the threshold, so that equal scores are one step. With nobody in, or nobody out,
    that rate stays 0. Of more than 400 corners some far from the beginning are left out.

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
    across, up = np.diff(x), np.diff(y)
    # A point in the middle of a straight stretch, across or up, is no corner.
    straight = ((across[1:] == 0) & (across[:-1] == 0)) | ((up[1:] == 0) & (up[:-1] == 0))
    corners = np.flatnonzero(np.concatenate([[True], ~straight, [True]]))
    if len(corners) > _CORNERS:
        places = np.geomspace(1.0, len(corners), _CORNERS).round().astype(np.int64) - 1
        corners = corners[np.unique(places)]
    return tuple(zip((x[corners] / outs).tolist(), (y[corners] / ins).tolist(), strict=True))


def _apart(
    scores: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ins, outs = scores[present], scores[~present]
    if min(len(ins), len(outs)) < 2:
        raise AuditError(f"expected two canaries in and two out at least, got {len(ins)} and {len(outs)}")
    return ins, outs
