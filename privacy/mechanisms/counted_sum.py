"""A clipped sum with a count beside it: how many examples the bound spares, in one release with the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import STEPS, ClippedSum

if TYPE_CHECKING:
    from torch import Tensor

# One example is at most STEPS long, in whole numbers: an eighth of that goes to its sign in the count, and
# what is left, √(1 - 1/64) of it rounded down, to its gradient.
SIGN_STEPS = STEPS // 8
GRADIENT_STEPS = math.isqrt(STEPS**2 - SIGN_STEPS**2)


class Counted(NamedTuple):
    """A noisy sum, float64, a tensor a parameter, and the noisy ``excess`` of examples within the bound."""

    tensors: tuple[Tensor, ...]
    excess: float


@dataclass(frozen=True, kw_only=True)
class CountedSum:
    """A sum of clipped gradients, and how many more examples were within the bound than beyond it.

    An example adds its clipped gradient, ``GRADIENT_STEPS`` of the grid long at most, and 1, 0 or -1 times
    ``SIGN_STEPS``: as one vector it is ``STEPS`` long at most. So ``Mechanism.release`` adds the noise of
    one release, and its multiplier z is that of both together: the sum has noise of z · 1.008 clipping
    norms and the count, in examples, of 8 z. With b = 4 z for a count of ones and zeros that is
    (z_Δ⁻² + (2 b)⁻²)^(-1/2) = z.

    Source: Andrew et al. 2021 (arXiv:1905.03871), theorem 1. Raises PrivacyUnitError for a sum that is on
    another grid, or not clipped in L2.
    """

    clipped: ClippedSum

    def __post_init__(self) -> None:
        if self.clipped.steps != GRADIENT_STEPS or self.clipped.norm != 2:
            raise PrivacyUnitError(
                f"expected a sum clipped in L2 to {GRADIENT_STEPS} steps, so that a count has room beside "
                f"it, got norm={self.clipped.norm}, steps={self.clipped.steps}"
            )

    @property
    def steps(self) -> float:
        return STEPS

    @property
    def norm(self) -> int:
        return self.clipped.norm

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much noise it takes: one part a tensor, and a number for the count."""
        return (*self.clipped.sizes, 1)

    def plus(self, noise: Sequence[NDArray[np.int64]]) -> Counted:
        """Add noise, int64[size] a part, and take the integers for what they stand for."""
        *parts, last = noise
        excess = (self.clipped.within * SIGN_STEPS + int(last[0])) / SIGN_STEPS
        return Counted(tensors=self.clipped.plus(parts), excess=excess)
