"""A clipping norm that follows a quantile of gradients' norms, by noisy counts that steps release."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The rate in step t is the larger of the two: 4 / t, so that a norm that is a hundred times too high or low
# is right after some six steps, and a half, so that it goes on following gradients that get shorter.
_FIRST_RATE, _LEAST_RATE = 4.0, 0.5
# As far as a job may set a clipping norm.
_LEAST, _MOST = 1e-6, 1e6


@dataclass(frozen=True, kw_only=True)
class AdaptiveNorm:
    """The norm before a step, after so many steps at the site that moved it.

    ``quantile`` is the share of examples whose gradients are to be no longer than ``value``.
    """

    quantile: float
    value: float
    steps: int = 0

    @property
    def numbers(self) -> NDArray[np.float32]:
        """What a site keeps of it: float32[2], the norm and the steps."""
        return np.array([self.value, self.steps], np.float32)

    def after(self, excess: float, *, expected: int) -> AdaptiveNorm:
        """The norm after a step that released ``excess`` more examples within it than beyond.

        ``expected`` is the public size of a batch. It is made of what was released, and of public numbers:
        post-processing. Source: Andrew et al. 2021 (arXiv:1905.03871), algorithm 1.
        """
        within = min(max((1.0 + excess / expected) / 2.0, 0.0), 1.0)
        rate = max(_LEAST_RATE, _FIRST_RATE / (self.steps + 1))
        moved = self.value * math.exp(rate * (self.quantile - within))
        return AdaptiveNorm(
            quantile=self.quantile, value=min(max(moved, _LEAST), _MOST), steps=self.steps + 1
        )
