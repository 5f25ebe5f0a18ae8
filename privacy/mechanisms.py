"""Additive noise for a sum whose sensitivity is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import dp_accounting as dp
import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.noise import NoiseSource

MechanismName = Literal["gaussian", "laplace", "none"]


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Noise in units of the clipping norm.

    ``multiplier`` is the noise's standard deviation (Gaussian) or scale (Laplace) over the clipping
    norm, which is the sum's sensitivity to one example's being there or not: L2 for Gaussian, L1 for
    Laplace. ``none`` adds no noise and protects nothing; clipping stays, so that one learning rate serves
    with and without noise.
    """

    name: MechanismName
    multiplier: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.multiplier) and self.multiplier >= 0):
            raise PlanError(f"expected a noise multiplier >= 0, got multiplier={self.multiplier}")
        if (self.multiplier == 0) != (self.name == "none"):
            raise PlanError(
                f"mechanism={self.name!r} with multiplier={self.multiplier}: only 'none' adds no noise"
            )

    @property
    def norm(self) -> int:
        """The norm that clipping must bound: 1 or 2."""
        return 1 if self.name == "laplace" else 2

    @property
    def event(self) -> dp.DpEvent:
        """One release of the whole data set's sum, as the accountant sees it."""
        if self.name == "gaussian":
            return dp.GaussianDpEvent(self.multiplier)
        if self.name == "laplace":
            return dp.LaplaceDpEvent(self.multiplier)
        return dp.NonPrivateDpEvent()

    def noise(self, size: int, *, clipping_norm: float, source: NoiseSource) -> NDArray[np.float64]:
        """Draw float64[size] noise for a sum in which one unit weighs at most ``clipping_norm``."""
        if self.name == "gaussian":
            return source.gaussian(size, std=self.multiplier * clipping_norm)
        if self.name == "laplace":
            return source.laplace(size, scale=self.multiplier * clipping_norm)
        return np.zeros(size)
