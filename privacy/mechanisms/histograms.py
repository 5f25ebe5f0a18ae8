"""Histograms of examples that know how much one example is in them, for one release of them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.counting import ONE

NOWHERE = -1  # the place of an example that a histogram does not count
# So many examples in units of 2^-30 leave an int64 room for noise.
_MOST_EXAMPLES = 2**31


@dataclass(frozen=True, kw_only=True, eq=False)
class Histograms:
    """Counts of examples, a histogram after another: int64[bins] each, in units of 2^-30 of an example.

    Made by ``count_places``, which has each example in one bin of each histogram at most. So an example
    that is made blank, which is what neighbours are here, takes 1 from one count in each of k histograms:
    an L2 distance of √k at most, ``steps`` in these units, rounded up. Gaussian noise of ``multiplier``
    times that hides it as one release, whatever the histograms are of. (An example that became another one
    would move 2k counts, √(2k); the ledger counts neither, as it has the number of examples public and
    neighbours by zeroing out.) All that is made of the noisy counts afterwards costs nothing.

    Source: Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", appendix A, for the
    sensitivity in L2; Canonne, Kamath and Steinke 2020 (arXiv:2004.00010) for noise on integers.
    """

    counts: tuple[NDArray[np.int64], ...]

    @property
    def steps(self) -> float:
        """The L2 bound: the least integer that is not under 2^30 · √k."""
        return float(math.isqrt(len(self.counts) * ONE**2 - 1) + 1)

    @property
    def norm(self) -> int:
        return 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.counts))

    def plus(self, noise: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Add noise, int64[bins] a histogram: int64[all bins], in the histograms' order."""
        return np.concatenate(
            [counted + drawn for counted, drawn in zip(self.counts, noise, strict=True)], dtype=np.int64
        )


def count_places(places: NDArray[np.int64], sizes: Sequence[int]) -> Histograms:
    """Count examples by their places, int64[n, k]: which bin of each of k histograms each example is in.

    ``sizes`` are the histograms' numbers of bins, which are public. A place of ``NOWHERE`` counts nothing.
    Raises PrivacyUnitError for places that are no bins, and for more examples than can be counted.
    """
    if places.ndim != 2 or places.shape[1] != len(sizes) or not len(sizes) or places.dtype != np.int64:
        raise PrivacyUnitError(
            f"expected a place in each of {len(sizes)} histograms for each example, got an array of "
            f"{places.dtype}{list(places.shape)}"
        )
    if len(places) > _MOST_EXAMPLES:
        raise PrivacyUnitError(f"expected at most {_MOST_EXAMPLES} examples, got {len(places)}")
    if (places < NOWHERE).any() or (places >= np.array(sizes, np.int64)).any():
        raise PrivacyUnitError("expected each place to be a bin of its histogram, or nowhere")
    return Histograms(
        counts=tuple(
            ONE * np.bincount(column[column != NOWHERE], minlength=size).astype(np.int64)
            for column, size in zip(places.T, sizes, strict=True)
        )
    )
