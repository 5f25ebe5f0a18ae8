"""A round's steps under a plan with bands: whom each draws from, and which noise it adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.banded_noise import BandedNoise
from privacy.mechanisms.clipping import ClippedSum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CorrelatedSteps:
    """The steps that a charge reserved: their indices in the run begin at ``first``.

    ``groups``, int64[examples], has each example's group, which is the same in all of the run.
    """

    noise: BandedNoise
    groups: NDArray[np.int64]
    first: int

    def drawn_in(self, step: int, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of a Poisson sample of all examples that are in the step's group: a sample of that."""
        there: NDArray[np.bool_] = self.groups[drawn] == (self.first + step) % self.noise.bands
        return drawn[there]

    def release(self, step: int) -> Callable[[ClippedSum], tuple[Tensor, ...]]:
        """What adds the step's own noise to its sum."""
        return lambda clipped: self.noise.release(clipped, self.first + step)
