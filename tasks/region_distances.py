"""How far the edges of regions are apart that a model finds, from those of the regions that there are."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 95.0  # of the distances: a single pixel elsewhere would decide about their maximum


@dataclass(frozen=True, kw_only=True)
class LabelDistance:
    """One label's distances over held-out ``cases``, those in which mask or answer has it.

    In ``missed`` of them only one of both has it, and the distance counts as the whole diagonal.
    """

    cases: int
    missed: int
    mean: float
    median: float
    worst: float


def hausdorff(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, spacing: Sequence[float]
) -> float | None:
    """How far the edges of two regions, bool[…], are apart, in the unit of ``spacing`` along each axis.

    It is the larger of both ways' 95th percentile of the distances from one's edge to the other's. An edge
    is what has a neighbour along an axis that is not of the region, or is none. Where one region is empty
    it is the diagonal of all there is: the farthest that two places can be apart. None where both are.

    Source: Huttenlocher et al. 1993, section VI, with a percentile in place of a rank.
    """
    if not (first.any() or second.any()):
        return None
    if not (first.any() and second.any()):
        return float(np.linalg.norm((np.array(first.shape) - 1) * np.array(spacing)))
    from scipy import ndimage  # type: ignore[import-untyped]

    either = first | second
    around = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in either.nonzero())
    edges = [one[around] & ~ndimage.binary_erosion(one[around]) for one in (first, second)]
    apart = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    ways = (apart[1][edges[0]], apart[0][edges[1]])
    return float(max(np.percentile(way, PERCENTILE) for way in ways))


class DistanceTally:
    """Distances by label, case by case; the first label is what is around, and has none."""

    def __init__(self, labels: Sequence[str], *, spacing: Sequence[float]) -> None:
        self._labels, self._spacing = labels, spacing
        self._found: defaultdict[str, list[float]] = defaultdict(list)
        self._missed: defaultdict[str, int] = defaultdict(int)

    def add(self, answered: NDArray[np.uint8], masked: NDArray[np.uint8]) -> None:
        """One case: the number of the label that each place was given, and that it has."""
        for number, label in enumerate(self._labels[1:], start=1):
            one, other = answered == number, masked == number
            distance = hausdorff(one, other, spacing=self._spacing)
            if distance is not None:
                self._found[label].append(distance)
                self._missed[label] += bool(one.any()) != bool(other.any())

    def result(self) -> Mapping[str, LabelDistance]:
        """By label; one that no case has is not there."""
        return {
            label: LabelDistance(
                cases=len(found),
                missed=self._missed[label],
                mean=statistics.fmean(found),
                median=statistics.median(found),
                worst=max(found),
            )
            for label, found in self._found.items()
        }
