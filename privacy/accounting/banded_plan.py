"""The plan that hides an example with correlated noise, which takes some of earlier steps' noise back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountant import falls_steadily
from privacy.accounting.band_design import design_bands, step_noise, weighted_noise
from privacy.accounting.base_plan import with_least_noise
from privacy.accounting.sampled_plan import SampledPlan, SampledUnit, make_sampled_plan
from privacy.errors import PlanError
from privacy.mechanisms.banded_noise import BANDS_MAX, check_coefficients
from privacy.mechanisms.mechanism import Mechanism


@dataclass(frozen=True, kw_only=True)
class BandedPlan(SampledPlan):
    """A site's local steps with noise C⁻¹z, C a banded Toeplitz matrix of b = ``bands`` coefficients.

    Guarantee: as of a ``SampledPlan``; if each example is in one of b groups for good, step t, counted from
    0 over the whole run, draws a Poisson sample at ``sampling_rate`` from group t modulo b, and adds the
    noise of ``privacy.mechanisms.banded_noise`` under its own index t, which no other release has.
    ``mechanism`` is that noise over what one example adds to Cx: z's deviation is the multiplier times ‖c‖.
    ``coefficients`` are c in units of 2^-12.

    An example may be drawn in every b-th step alone, and what it adds there is in the b rows of Cx from
    that step on: no two of these share a row. So each is one release of Gaussian noise on a Poisson sample,
    whatever the gradients are chosen by, and T steps are ⌈T/b⌉ of them for the first group, which has the
    most. A run that stops after t steps has released ⌈t/b⌉ at most, and less of the last ones.

    Source: Choquette-Choo et al. 2023 (arXiv:2306.08153), theorem 4.
    """

    coefficients: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficients(self.coefficients)
        if self.mechanism.name != "gaussian":
            raise PlanError(f"expected Gaussian noise to correlate, got {self.mechanism}")

    @property
    def bands(self) -> int:
        """How many groups there are, each drawn from in every so many steps."""
        return len(self.coefficients)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate of the last step's sum, which has the most."""
        return self.mechanism.std * self.clipping_norm * step_noise(self.coefficients, self.steps)

    def noise_of_sum(self, weights: NDArray[np.float64]) -> float:
        return self.mechanism.std * self.clipping_norm * weighted_noise(self.coefficients, weights)

    def draws(self, steps: int) -> int:
        return -(-steps // self.bands)


def make_banded_plan(
    *,
    bands: int | None,
    weights: NDArray[np.float64],
    epsilon: float,
    delta: float,
    clipping_norm: float,
    expected_batch_size: int,
    examples: int,
    near: float = 1.0,
    unit: SampledUnit = "example",
) -> SampledPlan:
    """Find the least correlated noise whose ε over all steps is at most ``epsilon``.

    The steps have ``weights``, float64[steps], in the last adapter. One band is independent noise, and a
    ``SampledPlan``. Without ``bands`` they are as many of 1, 2, 4, … as leave the least noise in the last
    adapter: twice as many no longer lower it. Raises PlanError for more bands than steps or batches of
    examples, and as ``make_sampled_plan`` does.
    """
    plain = make_sampled_plan(
        mechanism="gaussian" if bands in (None, 1) else "none",
        epsilon=epsilon,
        delta=delta,
        clipping_norm=clipping_norm,
        expected_batch_size=expected_batch_size,
        examples=examples,
        steps=len(weights),
        near=near,
        unit=unit,
    )
    if bands is not None:
        return plain if bands == 1 else _banded(plain, weights, bands=bands, epsilon=epsilon, near=near)
    best = plain
    bands = 2
    while bands <= min(BANDS_MAX, len(weights), examples // expected_batch_size):
        found = _banded(plain, weights, bands=bands, epsilon=epsilon, near=best.mechanism.multiplier)
        if found.noise_of_sum(weights) >= best.noise_of_sum(weights):
            break
        best, bands = found, 2 * bands
    return best


def _banded(
    plain: SampledPlan, weights: NDArray[np.float64], *, bands: int, epsilon: float, near: float
) -> BandedPlan:
    """The plan of so many bands for the steps of a plain one.

    A group has 1/b of the examples, and the steps that draw from it b times the sampling rate.
    """
    if bands > plain.steps or bands * plain.sampling_rate > 1.0:
        raise PlanError(
            f"expected privacy.bands <= steps={plain.steps} and <= {1.0 / plain.sampling_rate:.4g}, the "
            f"site's examples over training.batch_size, got bands={bands}: a step draws its batch from one "
            "example in so many"
        )
    coefficients = design_bands(weights, bands=bands)

    def noisy(multiplier: float) -> BandedPlan:
        return BandedPlan(
            mechanism=Mechanism(name="gaussian", multiplier=multiplier),
            clipping_norm=plain.clipping_norm,
            sampling_rate=bands * plain.sampling_rate,
            steps=plain.steps,
            delta=plain.delta,
            coefficients=coefficients,
            unit=plain.unit,
        )

    some = noisy(1.0)
    if some.delta >= some.chance_of_being_drawn:
        raise PlanError(
            f"expected delta < {some.chance_of_being_drawn:.3g}, the chance that an example is drawn at "
            f"all in steps={some.steps}, got delta={some.delta}: noise would protect nobody; lower "
            "privacy.delta"
        )
    steady = falls_steadily(steps=some.draws(some.steps), delta=some.delta)
    return with_least_noise(noisy, epsilon=epsilon, near=near if steady else 1.0)
