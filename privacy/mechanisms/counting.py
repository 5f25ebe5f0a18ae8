"""Counts: whole numbers that know how much one unit can add to them, and whole noise for them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.discrete_laplace import draw_integer_laplace
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import NoiseSource

# One whole example: counts are in fixed point, in units of 2^-30.
ONE = 2**30
# What is sent is an int64.
LEAST, MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Count:
    """A sum of integers, one a unit, in which each weighs at most ``bound``.

    Made by ``count_shares``, which keeps that promise. Raises PrivacyUnitError if either is no integer, or
    the bound is below 1.
    """

    value: int
    bound: int

    def __post_init__(self) -> None:
        if type(self.value) is not int or type(self.bound) is not int or self.bound < 1:
            raise PrivacyUnitError(
                f"expected integers and a bound of at least 1, got value={self.value!r}, "
                f"bound={self.bound!r}"
            )

    def release(self, mechanism: Mechanism, source: NoiseSource) -> int:
        """Add integer Laplace noise of scale ``mechanism.multiplier · bound``: an int64.

        Guarantee: ε = 1 / multiplier at δ = 0, exactly. Both are rational here and the noise is drawn
        exactly, so two neighbouring counts give every integer, at odds of at most e^ε. With float64 noise
        the two give different sets of floats, and a single one may tell them apart (Mironov 2012, "On
        significance of the least significant bits for differential privacy"). What leaves int64 is cut to
        it, which takes nothing but the result.

        The ledger counts it as Laplace noise on the reals, whose Rényi divergence is lower. With c = 2α −
        1, u = e^((α − 1)ε), d = e^(−αε) and h = 1 / scale, the moments behind the two are (u + d) / 2 + t
        · (u − d) / 2, with t = 1/c on the reals and tanh(h/2) / tanh(ch/2) on integers. For a bound of
        2^30, α up to 256 and ε up to 100 that makes less than a relative 1e-15; costs are rounded up by
        1e-9.

        Raises PrivacyUnitError for another mechanism than ``laplace``.
        """
        if mechanism.norm != 1:
            raise PrivacyUnitError(
                f"expected Laplace noise for a count, which is bounded in norm=1, got {mechanism.name!r}"
            )
        scale = Fraction(mechanism.multiplier) * self.bound
        noisy = self.value + draw_integer_laplace(scale=scale, source=source)
        return min(MOST, max(LEAST, noisy))


def count_shares(shares: NDArray[np.float64]) -> Count:
    """Add up float64[n], a share in [0, 1] of each example, in units of 2^-30.

    Each is rounded before it is added, and sums of integers are exact: an example weighs at most 2^30,
    whatever the others are. A share beyond [0, 1] counts as the nearer end, and NaN or infinity as zero.
    Raises PrivacyUnitError unless there is one number an example.
    """
    shares = np.asarray(shares, np.float64)
    if shares.ndim != 1:
        raise PrivacyUnitError(f"expected one share an example, got shape {shares.shape}")
    kept = np.clip(np.where(np.isfinite(shares), shares, 0.0), 0.0, 1.0)
    units = np.rint(kept * ONE).astype(np.int64)
    return Count(value=sum(units.tolist()), bound=ONE)
