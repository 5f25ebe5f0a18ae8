"""What all plans have in common, and the search for the least noise that keeps a promise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.skellam import SkellamMechanism

# The search for a multiplier has a floor, a ceiling and a count: 14 doublings or 8 halvings from 1, and
# then so many halvings of an octave's logarithm, which leave one part in a thousand. Above the ceiling
# noise drowns every signal. Below the floor a step's loss is in the hundreds, and no ε up to 100 has so
# little.
_MULTIPLIER_MIN, _MULTIPLIER_MAX = 2.0**-8, 1e4
_HALVINGS = 10

Accountant = Literal["pld", "rdp", "prv"]
PlanT = TypeVar("PlanT", bound="BasePlan")


@dataclass(frozen=True, kw_only=True)
class BasePlan(ABC):
    """One site's training as its accountant sees it; each kind of plan says what it guarantees.

    ``mechanism`` is the noise in units of ``clipping_norm``, ``steps`` counts releases, and ``delta`` is
    the guarantee's δ. A ``unit`` is what one guarantee protects, and ``adjacency`` what neighbours are: one
    unit is made blank, and the number of units is public. Without noise a plan has no ε but ∞: that is
    decided here, for all kinds. Raises PlanError for values outside their range.
    """

    hides_sites: ClassVar[bool]

    mechanism: Mechanism | SkellamMechanism
    clipping_norm: float
    sampling_rate: float
    steps: int
    delta: float
    unit: Literal["example", "site"] = field(init=False)
    adjacency: Literal["zero-out"] = field(default="zero-out", init=False)

    def __post_init__(self) -> None:
        for name, expected, holds in (
            ("clipping_norm", "0 < clipping_norm < inf", 0.0 < self.clipping_norm < math.inf),
            ("sampling_rate", "0 < sampling_rate <= 1", 0.0 < self.sampling_rate <= 1.0),
            # Up to what float64 counts exactly.
            ("steps", "an integer 1 <= steps <= 2^53", 1 <= self.steps <= 2**53 and self.steps % 1 == 0),
            ("delta", "0 < delta < 1", 0.0 < self.delta < 1.0),
        ):
            if not holds:
                raise PlanError(f"expected {expected}, got {name}={getattr(self, name)!r}")

    @property
    def protects(self) -> bool:
        """Whether there is any noise."""
        return self.mechanism.protects

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate of a step's clipped sum.

        Skellam noise has a little more, by what rounding to integers adds to a clipped update's bound.
        """
        return self.mechanism.std * self.clipping_norm

    @property
    def epsilon(self) -> float:
        """ε spent by all steps; infinite without noise."""
        return self.epsilon_after(self.steps)

    def epsilon_after(self, steps: int) -> float:
        """ε spent by the first ``steps`` steps; infinite without noise."""
        if not steps:
            return 0.0
        return self._spent(steps) if self.protects else math.inf

    def epsilon_by(self, accountant: Accountant) -> float:
        """ε spent by all steps, by one accountant: one is the guarantee, the others are checks on it.

        Infinite without noise. Raises PlanError where the accountant does not know the mechanism.
        """
        if not self.protects:
            return math.inf
        if accountant not in self.accountants:
            raise PlanError(f"the {accountant} accountant does not know {self.mechanism.name} noise")
        return self._spent_by(accountant)

    def cautions(self, examples: int) -> tuple[str, ...]:
        """What a person should know before they rely on this plan for ``examples`` examples."""
        if not self.protects:
            return ("No noise is added: nothing is protected.",)
        if self.delta < 1.0 / examples:
            return ()
        return (
            f"delta={self.delta:g} is not below 1/examples={1.0 / examples:.2g}: a mechanism that "
            "publishes one example picked at random would pass. Choose a smaller delta.",
        )

    @property
    def pure_epsilon(self) -> float:
        """ε of all steps at δ = 0, as if each saw all data: infinite but for Laplace noise."""
        return math.inf

    @property
    @abstractmethod
    def accountants(self) -> tuple[Accountant, ...]:
        """Those that know the mechanism, the one whose ε is the guarantee first."""

    @abstractmethod
    def renyi(self, order: int) -> float:
        """Rényi divergence of one step, in nats at an integer ``order`` >= 2: an upper bound.

        Raises PlanError for another order, or without noise.
        """

    @abstractmethod
    def _spent(self, steps: int) -> float:
        """ε of one step or more with noise: the guarantee."""

    @abstractmethod
    def _spent_by(self, accountant: Accountant) -> float:
        """ε of all steps with noise, by an accountant that knows it."""


def check_epsilon(epsilon: float) -> None:
    """Raises PlanError for a target that no plan can have."""
    if not epsilon > 0.0:
        raise PlanError(f"expected epsilon > 0, got epsilon={epsilon}")


def with_least_noise(noisy: Callable[[float], PlanT], *, epsilon: float) -> PlanT:
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
