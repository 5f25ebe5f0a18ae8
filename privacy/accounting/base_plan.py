"""What all plans have in common, and the search for the least noise that keeps a promise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, TypeVar

from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.skellam import SkellamMechanism

# Multipliers are powers of two with a denominator: one part in a thousand apart, and the same whoever seeks
# one, from wherever. Above the ceiling noise drowns every signal. Below the floor a step's loss is in the
# hundreds, and no ε up to 100 has so little.
_OCTAVE = 1024
_MULTIPLIER_MAX = 1e4
_LEAST, _MOST = -8 * _OCTAVE, math.floor(_OCTAVE * math.log2(_MULTIPLIER_MAX))
_FIRST_STEP = 1  # from a guess, which is right or next to right where it comes from plans like this one

Accountant = Literal["pld", "rdp", "prv"]
PlanT = TypeVar("PlanT", bound="BasePlan")
Excess = Callable[[int], float]


class Point(NamedTuple):
    """A multiplier's index, and how far ln ε is above its target there."""

    k: int
    excess: float


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
    unit: Literal["example", "group", "site"] = field(init=False)
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

    def draws(self, steps: int) -> int:
        """In how many of the first ``steps`` steps one unit may be: what composes for it."""
        return steps

    def draws_if_ended(self, steps: int) -> int:
        """Of how many of its draws a plan counts by order that is ended after so many steps."""
        return self.draws(steps)

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

    def renyi_of(self, order: int) -> float:
        """Rényi divergence of all steps, in nats, as ``renyi`` is of one."""
        return self.draws(self.steps) * self.renyi(order)

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


def with_least_noise(noisy: Callable[[float], PlanT], *, epsilon: float, near: float = 1.0) -> PlanT:
    """The plan of the least multiplier 2^(k / 1024), k an integer, whose ε is at most ``epsilon``.

    What is returned was itself evaluated, and so was the next smaller multiplier, whose ε is more, unless
    that would be under 2^-8. ``near`` is where the search begins, and a good guess spares half of the
    evaluations. Where ε falls as the multiplier grows, what is found does not depend on it; where ε also
    rises, several multipliers are the least around them, and who wants one plan begins at one place. Raises
    PlanError if none under 1e4 meets the target, and what ``noisy`` raises.
    """
    plans: dict[int, PlanT] = {}

    def excess(k: int) -> float:
        """How far ln ε is above the target's: near a straight line in k."""
        plans[k] = noisy(2.0 ** (k / _OCTAVE))
        spent = plans[k].epsilon
        return math.log(spent / epsilon) if spent > 0.0 else -math.inf

    low, high = _bracket(excess, _index(near))
    if high is None:
        plan = plans[_MOST]
        raise PlanError(
            f"no noise multiplier under {_MULTIPLIER_MAX:g} reaches epsilon={epsilon} at "
            f"delta={plan.delta} in steps={plan.steps}: raise privacy.epsilon or train fewer steps"
        )
    return plans[_least(excess, low, high)]


def _bracket(excess: Excess, start: int) -> tuple[Point | None, Point | None]:
    """A multiplier whose ε is too large, None where the least one's is not, and one whose ε is not.

    The second is None where the most noise is too little.
    """
    # From below: a grid may not even exist for the most noise.
    here, step = Point(start, excess(start)), _OCTAVE if start == 0 else _FIRST_STEP
    low = high = here
    while high.excess > 0.0:
        if high.k == _MOST:
            return high, None
        low, k = high, min(high.k + step, _MOST)
        high, step = Point(k, excess(k)), min(2 * step, _OCTAVE)
    while low.excess <= 0.0:
        if low.k == _LEAST:
            return None, low
        high, k = low, max(low.k - step, _LEAST)
        low, step = Point(k, excess(k)), min(2 * step, _OCTAVE)
    return low, high


def _least(excess: Excess, low: Point | None, high: Point) -> int:
    """The least k between the two whose ε is not too large: by secants, or halves where these are slow."""
    if low is None:
        return high.k
    last, before, width, slow = high, low, high.k - low.k, 0
    while high.k - low.k > 1:
        k = _where_zero(before, last)
        if k is None or slow > 1:
            k, slow = (low.k + high.k) // 2, 0
        k = min(max(k, low.k + 1), high.k - 1)
        before, last = last, Point(k, excess(k))
        low, high = (low, last) if last.excess <= 0.0 else (last, high)
        slow = 0 if 2 * (high.k - low.k) <= width else slow + 1
        width = high.k - low.k
    return high.k


def _where_zero(first: Point, second: Point) -> int | None:
    """The least k at which the line through two points is not above zero; None if there is no such line."""
    rise = second.excess - first.excess
    if not math.isfinite(rise) or rise == 0.0:
        return None
    return math.ceil(second.k - second.excess * (second.k - first.k) / rise)


def _index(multiplier: float) -> int:
    return min(max(round(_OCTAVE * math.log2(multiplier)), _LEAST), _MOST)
