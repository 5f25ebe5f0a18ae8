"""Plans that hide a whole site: noise in the sum of all sites' updates, in shares or from one hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.plan import SILENT, Plan, check_epsilon, with_least_noise, with_noise
from privacy.errors import PlanError, PrivacyUnitError
from privacy.mechanisms.clipping import ClippedIntegers
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import NoiseSource
from privacy.mechanisms.skellam import IntegerSensitivity, SharedNoise, SkellamMechanism


def make_site_plan(
    *,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    releases: int,
    sensitivity_of: Callable[[float], IntegerSensitivity],
    min_survivors: int,
    colluding: int,
) -> Plan:
    """Find the least Skellam noise, in shares, that hides a whole site in ``releases`` sums.

    ``sensitivity_of`` gives the grid, as far as one site's integers reach on it, for a noise multiplier:
    more noise needs more of the modulus. Raises PlanError as ``make_plan`` does, and what it raises.
    """
    silent = make_central_site_plan(
        mechanism="none", epsilon=epsilon, delta=delta, clipping_norm=clipping_norm, releases=releases
    )

    def noisy(multiplier: float) -> Plan:
        shared = SharedNoise(
            sensitivity=sensitivity_of(multiplier), min_survivors=min_survivors, colluding=colluding
        )
        return replace(silent, mechanism=Mechanism(name="skellam", multiplier=multiplier), shared=shared)

    return with_least_noise(noisy, epsilon=epsilon)


def make_central_site_plan(
    *,
    mechanism: Literal["gaussian", "none"],
    epsilon: float,
    delta: float,
    clipping_norm: float,
    releases: int,
) -> Plan:
    """Find the least noise that hides a whole site if a trusted coordinator adds it to ``releases`` sums.

    Raises PlanError if no noise multiplier under 1e4 meets the target, or for values outside their range.
    """
    check_epsilon(epsilon)
    silent = Plan(
        mechanism=SILENT,
        clipping_norm=clipping_norm,
        sampling_rate=1.0,
        steps=releases,
        delta=delta,
        unit="site",
    )
    if mechanism == "none":
        return silent
    return with_least_noise(partial(with_noise, silent, mechanism), epsilon=epsilon)


def release_share(plan: Plan, clipped: ClippedIntegers, source: NoiseSource) -> NDArray[np.int64]:
    """Add one site's share of a plan's noise to its update: int64[d], private in the sum alone.

    Raises PlanError for a plan without shares, PrivacyUnitError for integers bounded otherwise than those
    that the plan's ε was computed for.
    """
    if plan.shared is None:
        raise PlanError(
            f"expected mechanism='skellam', whose noise is drawn in shares, got {plan.mechanism}"
        )
    planned = plan.shared.sensitivity
    # Both L1 bounds are products of the same numbers, in another order: off by roundings.
    if clipped.bound != planned.l2 or clipped.l1_bound > planned.l1 * (1 + 1e-12):
        raise PrivacyUnitError(
            f"expected integers bounded as in the plan, l2={planned.l2} and l1={planned.l1}, got "
            f"l2={clipped.bound} and l1={clipped.l1_bound}: encode for the plan's own noise multiplier"
        )
    noise = SkellamMechanism(multiplier=plan.mechanism.multiplier)
    return noise.release(clipped, source, shares=plan.shared.honest)
