"""The plan: how much noise a whole training adds, fixed before its first step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

import dp_accounting as dp

from privacy.accounting.accountant import (
    epsilon_by_pld,
    epsilon_by_prv,
    epsilon_by_rdp,
    renyi,
    training_event,
)
from privacy.accounting.skellam_loss import skellam_renyi, summed_epsilon
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism, MechanismName
from privacy.mechanisms.skellam import SharedNoise, SkellamMechanism

# The search for a multiplier has a floor, a ceiling and a count: 14 doublings or 8 halvings from 1, and
# then so many halvings of an octave's logarithm, which leave one part in a thousand. Above the ceiling
# noise drowns every signal. Below the floor a step's loss is in the hundreds, and no ε up to 100 has so
# little.
_MULTIPLIER_MIN, _MULTIPLIER_MAX = 2.0**-8, 1e4
_HALVINGS = 10
# The noise for less would leave float64.
_COUNT_EPSILON_MIN = 1e-300

# What a plan is checked with before its noise is sought.
SILENT = Mechanism(name="none", multiplier=0.0)

Accountant = Literal["pld", "rdp", "prv"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One site's training as its accountant sees it.

    Guarantee: (``epsilon``, ``delta``)-differential privacy for one ``unit`` made blank (``adjacency``),
    the number of units being public. For ``unit="example"``: if every step draws a fresh Poisson sample at
    ``sampling_rate``, clips each example to ``clipping_norm`` and adds ``mechanism``'s noise once to the
    sum; ``steps`` counts local steps. For ``unit="site"``: if every round clips each site's update to
    ``clipping_norm`` and releases nothing but their sum with that noise; ``steps`` counts rounds, and a
    blank site's update is 0. ``shared`` is there for Skellam noise, which the sites draw in shares, and for
    it alone. All that computes a noise or an ε takes it from here. Raises PlanError for values outside
    their range.
    """

    mechanism: Mechanism
    clipping_norm: float
    sampling_rate: float
    steps: int
    delta: float
    unit: Literal["example", "site"] = "example"
    adjacency: Literal["zero-out"] = "zero-out"
    shared: SharedNoise | None = None

    def __post_init__(self) -> None:
        noise, site = self.mechanism.name, self.unit == "site"
        for name, expected, holds in (
            ("clipping_norm", "0 < clipping_norm < inf", 0.0 < self.clipping_norm < math.inf),
            ("sampling_rate", "0 < sampling_rate <= 1", 0.0 < self.sampling_rate <= 1.0),
            ("steps", "an integer steps >= 1", self.steps >= 1 and self.steps == int(self.steps)),
            ("delta", "0 < delta < 1", 0.0 < self.delta < 1.0),
            ("unit", "unit='example' or 'site'", self.unit in ("example", "site")),
            ("adjacency", "adjacency='zero-out'", self.adjacency == "zero-out"),
            ("sampling_rate", "sampling_rate=1 for unit='site'", not site or self.sampling_rate == 1.0),
            ("mechanism", "another mechanism for unit='site'", not site or noise != "laplace"),
            ("unit", "unit='site' for mechanism='skellam'", site or noise != "skellam"),
            ("shared", "shares for 'skellam' alone", (noise == "skellam") == (self.shared is not None)),
        ):
            if not holds:
                raise PlanError(f"expected {expected}, got {name}={getattr(self, name)!r}")

    @property
    def protects(self) -> bool:
        """Whether there is any noise."""
        return self.mechanism.name != "none"

    @property
    def hides_sites(self) -> bool:
        """Whether the guarantee is for a whole site, in the sum of all, and not for one example."""
        return self.unit == "site"

    @property
    def event(self) -> dp.DpEvent:
        """All steps, as dp-accounting's accountants see them; they know no Skellam noise."""
        return training_event(mechanism=self.mechanism, sampling_rate=self.sampling_rate, steps=self.steps)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate of a step's clipped sum.

        Skellam noise has a little more, by what rounding to integers adds to a clipped update's bound.
        """
        # A Laplace variable's variance is twice its scale squared.
        per_multiplier = math.sqrt(2.0) if self.mechanism.name == "laplace" else 1.0
        return per_multiplier * self.mechanism.multiplier * self.clipping_norm

    @property
    def chance_of_being_drawn(self) -> float:
        """The probability that one unit is in any of the steps' samples."""
        if self.sampling_rate == 1.0:
            return 1.0
        return -math.expm1(self.steps * math.log1p(-self.sampling_rate))

    @property
    def epsilon(self) -> float:
        """ε spent by all steps; infinite without noise."""
        return self.epsilon_after(self.steps)

    def epsilon_after(self, steps: int) -> float:
        """ε spent by the first ``steps`` steps; infinite without noise."""
        if self.mechanism.name == "none":
            return math.inf if steps else 0.0
        if self.shared is not None:
            return self.epsilon_of_summed((), untold=steps)
        return epsilon_by_pld(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=steps,
            delta=self.delta,
            horizon=max(self.steps, steps),
        )

    def epsilon_of_summed(self, survivors: Sequence[int], *, untold: int = 0) -> float:
        """ε spent by sums of so many ``survivors``, and by ``untold`` more of as few as are allowed.

        Each survivor brings its share of Skellam noise; Gaussian noise does not depend on them. Raises
        PlanError for an example's plan, or for fewer survivors than the plan's sums have.
        """
        if self.unit != "site":
            raise PlanError(f"expected a plan for unit='site', whose releases are sums, got {self.unit!r}")
        if self.shared is None:
            return self.epsilon_after(len(survivors) + untold)
        if not survivors and not untold:
            return 0.0
        excesses = Counter(map(self.shared.excess, survivors)) + Counter({1.0: untold})
        planned = self._variance(self.shared)
        return summed_epsilon(
            sensitivity=self.shared.sensitivity,
            releases={planned * excess: count for excess, count in excesses.items()},
            delta=self.delta,
        )

    def renyi(self, order: int) -> float:
        """Rényi divergence of one step, in nats at an integer ``order`` >= 2: an upper bound.

        Raises PlanError for another order, or without noise.
        """
        if self.shared is None:
            return renyi(mechanism=self.mechanism, sampling_rate=self.sampling_rate, order=order)
        return skellam_renyi(
            sensitivity=self.shared.sensitivity, variance=self._variance(self.shared), order=order
        )

    def doubled(self) -> Plan:
        """The same noise against twice the sensitivity: what a site's plan is to one of its examples.

        A blank site adds 0 to the sum. A blank example makes one clipped update of another, and two vectors
        of norm C may be 2C apart. Raises PlanError for an example's plan.
        """
        if self.unit != "site":
            raise PlanError(f"expected a plan for unit='site', got {self.unit!r}")
        if self.mechanism.name == "none":
            return replace(self, clipping_norm=2 * self.clipping_norm)
        half = replace(self.mechanism, multiplier=self.mechanism.multiplier / 2)
        shared = self.shared and replace(self.shared, sensitivity=self.shared.sensitivity.doubled())
        return replace(self, clipping_norm=2 * self.clipping_norm, mechanism=half, shared=shared)

    def epsilon_by(self, accountant: Accountant) -> float:
        """ε spent by all steps, by one accountant: ``pld`` is the guarantee, the others are checks on it.

        For Skellam noise ``rdp`` is the guarantee, and the only one. Infinite without noise. Raises
        PlanError where the accountant does not know the mechanism: ``prv`` knows Gaussian noise only.
        """
        if self.mechanism.name == "none":
            return math.inf
        if self.shared is not None:
            if accountant != "rdp":
                raise PlanError(f"the {accountant} accountant does not know mechanism='skellam'")
            return self.epsilon
        if accountant == "pld":
            return self.epsilon
        by = epsilon_by_rdp if accountant == "rdp" else epsilon_by_prv
        return by(
            mechanism=self.mechanism,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            delta=self.delta,
        )

    def _variance(self, shared: SharedNoise) -> float:
        """Of the planned noise in a coordinate of the sum, in squared integers."""
        return SkellamMechanism(multiplier=self.mechanism.multiplier).variance(shared.sensitivity.l2)

    def cautions(self, examples: int) -> tuple[str, ...]:
        """What a person should know before they rely on this plan for ``examples`` examples."""
        if self.mechanism.name == "none":
            return ("No noise is added: nothing is protected.",)
        found = []
        if self.delta >= 1.0 / examples:
            found.append(
                f"delta={self.delta:g} is not below 1/examples={1.0 / examples:.2g}: a mechanism that "
                "publishes one example picked at random would pass. Choose a smaller delta."
            )
        if self.shared is not None and self.shared.colluding == 0:
            found.append(
                "colluding=0: a site knows its own share of the noise, and others are hidden from it by "
                "the rest alone. Plan with colluding=1 to hide them from one another too."
            )
        return tuple(found)


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
    than the data, if no noise multiplier under 1e4 meets the target, if ``delta`` allows for all that are
    ever drawn, or for values outside their range.
    """
    check_epsilon(epsilon)
    if expected_batch_size < 1:
        raise PlanError(f"expected batch_size >= 1, got batch_size={expected_batch_size}")
    if expected_batch_size > examples:
        raise PlanError(
            f"expected batch_size <= examples at the site, got batch_size={expected_batch_size}, "
            f"examples={examples}: lower training.batch_size or give the site more examples"
        )
    # Checked as a plan before the search, which would answer a delta of 0 with a search to the end.
    silent = Plan(
        mechanism=SILENT,
        clipping_norm=clipping_norm,
        sampling_rate=expected_batch_size / examples,
        steps=steps,
        delta=delta,
    )
    if mechanism == "none":
        return silent
    drawn = silent.chance_of_being_drawn
    if delta >= drawn:
        # ε would be 0 without any noise: δ is a probability with which nothing is promised.
        raise PlanError(
            f"expected delta < {drawn:.3g}, the chance that an example is drawn at all in steps={steps} "
            f"(batch_size={expected_batch_size} of examples={examples}), got delta={delta}: noise would "
            "protect nobody; lower privacy.delta"
        )
    return with_least_noise(partial(with_noise, silent, mechanism), epsilon=epsilon)


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


def check_epsilon(epsilon: float) -> None:
    """Raises PlanError for a target that no plan can have."""
    if not epsilon > 0.0:
        raise PlanError(f"expected epsilon > 0, got epsilon={epsilon}")


def with_noise(plan: Plan, name: MechanismName, multiplier: float) -> Plan:
    """The same plan with other noise."""
    return replace(plan, mechanism=Mechanism(name=name, multiplier=multiplier))


def with_least_noise(noisy: Callable[[float], Plan], *, epsilon: float) -> Plan:
    """The plan of the least multiplier, to one part in a thousand, whose ε is at most ``epsilon``.

    By bisection on the logarithm; what is returned was itself evaluated. No multiplier is under 2^-8.
    Raises PlanError if none under 1e4 meets the target, and what ``noisy`` raises.
    """

    def meets(multiplier: float) -> bool:
        return noisy(multiplier).epsilon <= epsilon

    # From below: a grid may not even exist for the most noise.
    high = 1.0
    while not meets(high):
        if high == _MULTIPLIER_MAX:
            plan = noisy(high)
            raise PlanError(
                f"no noise multiplier under {_MULTIPLIER_MAX:g} reaches epsilon={epsilon} at "
                f"delta={plan.delta} in steps={plan.steps}: raise privacy.epsilon or train fewer steps"
            )
        high = min(2.0 * high, _MULTIPLIER_MAX)
    low = high / 2.0
    while meets(low):
        if low <= _MULTIPLIER_MIN:
            return noisy(low)
        high, low = low, low / 2.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return noisy(high)
