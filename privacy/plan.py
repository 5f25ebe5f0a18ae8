"""The plan: how much noise a site's whole training adds, fixed before its first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import dp_accounting as dp

from privacy.accounting import epsilon_by_pld, epsilon_by_prv, epsilon_by_rdp, training_event
from privacy.errors import PlanError
from privacy.mechanisms import Mechanism, MechanismName

# Above this the noise drowns every signal; it also bounds the search.
_MULTIPLIER_MAX = 1e4
_RELATIVE_TOLERANCE = 1e-3
# The noise for less would leave float64.
_COUNT_EPSILON_MIN = 1e-300

Accountant = Literal["pld", "rdp", "prv"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One site's training as its accountant sees it; ``steps`` counts local steps, never rounds.

    Guarantee: (``epsilon``, ``delta``)-differential privacy for one ``unit`` made blank (``adjacency``),
    the number of examples being public, if every step draws a fresh Poisson sample at ``sampling_rate``,
    clips each example to ``clipping_norm`` and adds ``mechanism``'s noise once to the sum. All that
    computes a noise or an ε takes it from here. Raises PlanError for values outside their range.
    """

    mechanism: Mechanism
    clipping_norm: float
    sampling_rate: float
    steps: int
    delta: float
    unit: Literal["example"] = "example"
    adjacency: Literal["zero-out"] = "zero-out"

    def __post_init__(self) -> None:
        for name, expected, holds in (
            ("clipping_norm", "0 < clipping_norm < inf", 0.0 < self.clipping_norm < math.inf),
            ("sampling_rate", "0 < sampling_rate <= 1", 0.0 < self.sampling_rate <= 1.0),
            ("steps", "an integer steps >= 1", self.steps >= 1 and self.steps == int(self.steps)),
            ("delta", "0 < delta < 1", 0.0 < self.delta < 1.0),
            ("unit", "unit='example'", self.unit == "example"),
            ("adjacency", "adjacency='zero-out'", self.adjacency == "zero-out"),
        ):
            if not holds:
                raise PlanError(f"expected {expected}, got {name}={getattr(self, name)!r}")

    @property
    def event(self) -> dp.DpEvent:
        """All steps, as dp-accounting's accountants see them."""
        return training_event(mechanism=self.mechanism, sampling_rate=self.sampling_rate, steps=self.steps)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate of a step's clipped sum."""
        # A Laplace variable's variance is twice its scale squared.
        per_multiplier = math.sqrt(2.0) if self.mechanism.name == "laplace" else 1.0
        return per_multiplier * self.mechanism.multiplier * self.clipping_norm

    @property
    def epsilon(self) -> float:
        """ε spent by all steps; infinite without noise."""
        return self.epsilon_after(self.steps)

    def epsilon_after(self, steps: int) -> float:
        """ε spent by the first ``steps`` steps; infinite without noise."""
        if self.mechanism.name == "none":
            return math.inf if steps else 0.0
        return epsilon_by_pld(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=steps,
            delta=self.delta,
            horizon=max(self.steps, steps),
        )

    def epsilon_by(self, accountant: Accountant) -> float:
        """ε spent by all steps, by one accountant: ``pld`` is the guarantee, the others are checks on it.

        Infinite without noise. Raises PlanError where the accountant does not know the mechanism: ``prv``
        knows Gaussian noise only.
        """
        if self.mechanism.name == "none":
            return math.inf
        if accountant == "pld":
            return self.epsilon
        by = epsilon_by_rdp if accountant == "rdp" else epsilon_by_prv
        return by(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            delta=self.delta,
        )

    def cautions(self, examples: int) -> tuple[str, ...]:
        """What a person should know before they rely on this plan for ``examples`` examples."""
        if self.mechanism.name == "none":
            return ("No noise is added: nothing is protected.",)
        if self.delta >= 1.0 / examples:
            return (
                f"delta={self.delta:g} is not below 1/examples={1.0 / examples:.2g}: a mechanism that "
                "publishes one example picked at random would pass. Choose a smaller delta.",
            )
        return ()


def make_plan(
    *,
    mechanism: MechanismName,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    expected_batch_size: int,
    examples: int,
    steps: int,
) -> Plan:
    """Find the least noise whose ε over all ``steps`` is at most ``epsilon``.

    The sampling rate is ``expected_batch_size / examples``. Raises PlanError if the batch is larger
    than the data, if no noise multiplier under 1e4 meets the target, or for values outside their range.
    """
    if not epsilon > 0.0:
        raise PlanError(f"expected epsilon > 0, got epsilon={epsilon}")
    if expected_batch_size < 1:
        raise PlanError(f"expected batch_size >= 1, got batch_size={expected_batch_size}")
    if expected_batch_size > examples:
        raise PlanError(
            f"expected batch_size <= examples at the site, got batch_size={expected_batch_size}, "
            f"examples={examples}: lower training.batch_size or give the site more examples"
        )
    # Checked as a plan before the search, which would answer a delta of 0 with a search to the end.
    silent = Plan(
        mechanism=Mechanism(name="none", multiplier=0.0),
        clipping_norm=clipping_norm,
        sampling_rate=expected_batch_size / examples,
        steps=steps,
        delta=delta,
    )
    return silent if mechanism == "none" else _with_least_noise(silent, mechanism, epsilon=epsilon)


def make_count_plan(*, epsilon: float, delta: float) -> Plan:
    """One release of a sum in which an example weighs at most 1, with Laplace noise of scale 1/``epsilon``.

    It gives ``epsilon`` at δ = 0, with multiplier · ``epsilon`` >= 1 exactly; ``delta`` is there for those
    who count in pairs. Raises PlanError for an ``epsilon`` that no noise gives.
    """
    if not _COUNT_EPSILON_MIN <= epsilon < math.inf:
        raise PlanError(f"expected {_COUNT_EPSILON_MIN:g} <= epsilon < inf, got epsilon={epsilon}")
    multiplier = 1.0 / epsilon
    if Fraction(multiplier) * Fraction(epsilon) < 1:
        # Rounded the wrong way: it would cost a little more than was asked for.
        multiplier = math.nextafter(multiplier, math.inf)
    return Plan(
        mechanism=Mechanism(name="laplace", multiplier=multiplier),
        clipping_norm=1.0,
        sampling_rate=1.0,
        steps=1,
        delta=delta,
    )


def _with_least_noise(plan: Plan, name: MechanismName, *, epsilon: float) -> Plan:
    """Bisect on the logarithm of the multiplier; what is returned was itself evaluated."""

    def noisy(multiplier: float) -> Plan:
        return replace(plan, mechanism=Mechanism(name=name, multiplier=multiplier))

    def meets(multiplier: float) -> bool:
        return noisy(multiplier).epsilon <= epsilon

    if not meets(_MULTIPLIER_MAX):
        raise PlanError(
            f"no noise multiplier under {_MULTIPLIER_MAX:g} reaches epsilon={epsilon} at "
            f"delta={plan.delta} in steps={plan.steps}: raise privacy.epsilon or train fewer steps"
        )
    high = 1.0
    while not meets(high):
        high *= 2.0
    low = high / 2.0
    while meets(low):
        high, low = low, low / 2.0
    while high / low > 1.0 + _RELATIVE_TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return noisy(high)
