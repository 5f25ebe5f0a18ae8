"""Additive noise, calibrated from a value that knows how much one unit can add to it.

Values and noise are integers on a grid that no value chooses, so every output can occur whoever is in the
value, with the probabilities that the guarantee counts on. Only the noisy sum becomes a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError, PrivacyUnitError
from privacy.mechanisms.rng import NoiseSource

if TYPE_CHECKING:
    import dp_accounting as dp

MechanismName = Literal["gaussian", "laplace", "none"]

# Noise is drawn as int64.
_STEPS_MAX = 2.0**54 - 16.0

ReleasedT_co = TypeVar("ReleasedT_co", covariant=True)


class Bounded(Protocol[ReleasedT_co]):
    """Integers in which one unit weighs at most ``steps`` in the L1 or L2 ``norm``.

    ``Clipped`` and ``ClippedSum`` are such values; with noise added they become what may be released.
    """

    @property
    def steps(self) -> float: ...

    @property
    def norm(self) -> int: ...

    @property
    def sizes(self) -> tuple[int, ...]: ...

    def plus(self, noise: Sequence[NDArray[np.int64]]) -> ReleasedT_co: ...


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Noise in units of the clipping norm.

    ``multiplier`` is the noise's standard deviation (Gaussian) or scale (Laplace) over the clipping
    norm, which is the sum's sensitivity to one example's being there or not: L2 for Gaussian, L1 for
    Laplace. ``none`` adds no noise and protects nothing; clipping stays, so that one learning rate serves
    with and without noise. Noise that sites draw in shares is a ``SkellamMechanism``'s.

    Guarantee: what is released is at least as private as the same sum with Gaussian or Laplace noise of
    this multiplier on real numbers, which is what accountants know. The noise is discrete, drawn exactly,
    and larger by what that takes; docs/mechanisms.md has the proofs.

    - Gaussian: with a standard deviation of √(m² + 36) steps or more, where m = multiplier · steps, the
      discrete Gaussian is a randomised rounding of N(0, m²), which does not look at the sum: up to a factor
      of 1 ± 2^-1000 in each probability.
    - Laplace: with a scale of m + 1 steps or more, in each coordinate and for each shift by whole steps,
      the hockey-stick divergences are no larger than those of Laplace noise of scale m.
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
    def protects(self) -> bool:
        """Whether there is any noise."""
        return self.name != "none"

    @property
    def norm(self) -> int:
        """The norm that clipping must bound: 1 or 2."""
        return 1 if self.name == "laplace" else 2

    @property
    def std(self) -> float:
        """Standard deviation of the noise in a coordinate, over the clipping norm."""
        # A Laplace variable's variance is twice its scale squared.
        return math.sqrt(2.0) * self.multiplier if self.name == "laplace" else self.multiplier

    def pure_epsilon(self, releases: int) -> float:
        """ε of so many releases at δ = 0, which Laplace noise alone has: infinite for any other."""
        return releases / self.multiplier if self.name == "laplace" else math.inf

    @property
    def event(self) -> dp.DpEvent:
        """One release of the whole data set's sum, as dp-accounting sees it."""
        import dp_accounting as dp  # with scipy it takes a second to import

        if self.name == "gaussian":
            return dp.GaussianDpEvent(self.multiplier)
        return dp.LaplaceDpEvent(self.multiplier) if self.name == "laplace" else dp.NonPrivateDpEvent()

    def noise(self, size: int, *, steps: float, source: NoiseSource) -> NDArray[np.int64]:
        """Draw int64[size] noise for integers in which one unit weighs at most ``steps``.

        Raises PlanError for noise that an int64 would not hold.
        """
        planned = self.multiplier * steps
        if planned > _STEPS_MAX:
            raise PlanError(
                f"expected noise of at most 2^54 steps of the grid, got multiplier={self.multiplier} and "
                f"steps={steps}"
            )
        whole = math.ceil(planned)
        if self.name == "gaussian":
            return source.discrete_gaussian(size, std=_at_least(math.isqrt(whole * whole + 36) + 1))
        if self.name == "laplace":
            return source.discrete_laplace(size, scale=whole + 1)
        return np.zeros(size, np.int64)

    def release(self, clipped: Bounded[ReleasedT_co], source: NoiseSource) -> ReleasedT_co:
        """Add noise of the size that the value's own bound asks for.

        Raises PrivacyUnitError if the value is bounded in another norm than this noise hides; ``none``
        hides nothing and takes either.
        """
        if self.protects and clipped.norm != self.norm:
            raise PrivacyUnitError(
                f"{self.name} noise hides what is bounded in norm={self.norm}, got a value bounded in "
                f"norm={clipped.norm}: clip it to norm={self.norm}"
            )
        return clipped.plus(
            [self.noise(size, steps=clipped.steps, source=source) for size in clipped.sizes]
        )


NO_NOISE = Mechanism(name="none", multiplier=0.0)


def _at_least(number: int) -> float:
    """The least float that is not under a whole number; from 2^53 on floats do not hold all of them."""
    found = float(number)
    return found if found >= number else math.nextafter(found, math.inf)
