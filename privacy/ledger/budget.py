"""The budget of a data set, and the filter that says whether one more plan fits in it.

Plans come one after another, from coordinators who have seen what earlier ones released, so the filter must
hold when each plan depends on all that came before. Two rules do, and a set of plans is admitted by either:

*By order.* Σ ρ_j(α) ≤ B(ε, δ/2), over every step that was or may still be taken. The order α is fixed
before the first plan: then the sum is a valid filter whatever is chosen later (Feldman and Zrnic 2021,
arXiv:2008.11193; Lécuyer 2021, arXiv:2103.01379). B turns (α, ρ) into (ε, δ) by Canonne, Kamath and Steinke
2020 (arXiv:2004.00010, proposition 12).

*By plan.* Σ ε_i ≤ ε and Σ δ_i ≤ δ/2, over every plan that was begun. A plan is fixed before its first
step, so its own ε may come from its privacy loss distribution. Plain sums are a valid filter for plans that
are chosen adaptively (Rogers et al. 2016, arXiv:1605.08294).

Both hold for plans whose rounds interleave (Haney et al. 2023, arXiv:2309.05901). Each rule stands for
δ/2, because which of them admits may itself depend on the data: what the site sends under the first is
(ε, δ/2)-private, what it sends under the second is too, and any event is the union of its parts under
each.

A budget belongs to an example. A plan that hides whole sites is charged for what it is to one of their
examples: the same noise against twice the sensitivity. An example that is made blank makes another vector
of the site's clipped update, and with ‖u‖ ≤ C and ‖u'‖ ≤ C it is ‖u − u'‖ ≤ 2C, in either norm and on
integers too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Literal

from privacy.accounting.plan import Plan
from privacy.errors import PlanError

# Sums are of integers, so that they are exact in any order: nats in billionths and δ in 1e-18, each
# rounded up.
NATS = 10**9
DELTAS = 10**18
_ORDERS = range(2, 257)
# Far beyond what means anything, and far below what stands for an infinite loss.
_EPSILON_MAX = 1e6
# What a cost computed in floating point may be short of, relatively.
_FLOAT_ERROR = 1e-9
# How much more ε a plan may cost at δ = 0 to be counted there.
_PURE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What plans have cost: ``renyi`` and ``epsilon`` in 1e-9 nats, ``delta`` in 1e-18."""

    renyi: int = 0
    epsilon: int = 0
    delta: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            renyi=self.renyi + other.renyi,
            epsilon=self.epsilon + other.epsilon,
            delta=self.delta + other.delta,
        )

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            renyi=self.renyi - other.renyi,
            epsilon=self.epsilon - other.epsilon,
            delta=self.delta - other.delta,
        )

    def share(self, taken: int, *, of: int) -> Spent:
        """What a plan with this cost has cost if it ends after ``taken`` of its draws (``BasePlan.draws``).

        By order only those that were made count. By plan it counts whole once it took one: when to stop
        may depend on what was released, and its ε was computed for a number of steps fixed before.
        """
        if not taken:
            return Spent()
        return replace(self, renyi=-(-self.renyi * taken // of))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be lost about one example of a data set, for good: (``epsilon``, ``delta``).

    ``order`` is the filter's α, an integer above 1. Raises PlanError for values that promise nothing.
    """

    epsilon: float
    delta: float
    order: int
    unit: Literal["example"] = field(default="example", init=False)
    adjacency: Literal["zero-out"] = field(default="zero-out", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= _EPSILON_MAX:
            raise PlanError(
                f"expected a budget 0 < epsilon <= {_EPSILON_MAX:g}, got epsilon={self.epsilon}"
            )
        if not 0 < self.delta < 1:
            raise PlanError(f"expected a budget 0 < delta < 1, got delta={self.delta}")
        if self.order not in _ORDERS:
            raise PlanError(f"expected an order from 2 to {_ORDERS[-1]}, got order={self.order}")

    @cached_property
    def renyi_limit(self) -> int:
        """B(ε, δ/2) in 1e-9 nats; negative where the order is too low for so little ε."""
        return math.floor((self.epsilon - self._conversion) * NATS)

    def admits(self, spent: Spent) -> bool:
        """Whether all of this together stays within (ε, δ)."""
        by_order = spent.renyi <= self.renyi_limit
        by_plan = spent.epsilon <= self._epsilon_limit and spent.delta <= self._delta_limit
        return by_order or by_plan

    def epsilon_of(self, spent: Spent) -> float:
        """The ε that the filter can promise after this, at its δ: the lower of the two rules'."""
        if spent == Spent():
            return 0.0
        by_order = max(0.0, spent.renyi / NATS + self._conversion)
        by_plan = spent.epsilon / NATS if spent.delta <= self._delta_limit else math.inf
        return min(by_order, by_plan)

    def cost(self, plan: Plan) -> Spent:
        """What all of a plan's steps cost one example, which may be drawn in some of them.

        Raises PlanError for a plan without noise.
        """
        charged = plan.as_charged()
        draws = charged.draws(charged.steps)
        by_order = nats(charged.renyi_of(self.order) * (1 + _FLOAT_ERROR))
        pure = charged.pure_epsilon
        single = (draws, charged.sampling_rate) == (1, 1.0)
        if math.isfinite(pure) and (single or pure <= charged.epsilon * (1 + _PURE)):
            # A single count: δ would buy next to nothing, so none of it is spent.
            return Spent(renyi=by_order, epsilon=nats(pure))
        return Spent(renyi=by_order, epsilon=nats(charged.epsilon), delta=deltas(charged.delta))

    @cached_property
    def _epsilon_limit(self) -> int:
        """ε in 1e-9 nats, rounded down: what costs add up to is compared with it."""
        return _rounded(self.epsilon, NATS, ROUND_FLOOR)

    @cached_property
    def _delta_limit(self) -> int:
        """δ/2 in 1e-18, rounded down."""
        return _rounded(self.delta, DELTAS, ROUND_FLOOR) // 2

    @property
    def _conversion(self) -> float:
        """What turns ρ at the order into ε at δ/2."""
        alpha, delta = self.order, self.delta / 2
        return math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)


def make_budget(*, epsilon: float, delta: float, order: int | None = None) -> Budget:
    """A budget, by default with the order at which Gaussian noise could spend most.

    That is the α with the largest B(α)/α, for Gaussian noise costs ρ(α) = α · ρ(1).
    """
    if order is not None:
        return Budget(epsilon=epsilon, delta=delta, order=order)
    candidates = [Budget(epsilon=epsilon, delta=delta, order=order) for order in _ORDERS]
    return max(candidates, key=lambda budget: budget.renyi_limit / budget.order)


def nats(value: float) -> int:
    """Nats in billionths, rounded up; a billion nats stand for all that is more."""
    return _rounded(min(value, float(NATS)), NATS, ROUND_CEILING)


def deltas(value: float) -> int:
    """δ in 1e-18, rounded up."""
    return _rounded(value, DELTAS, ROUND_CEILING)


def _rounded(value: float, unit: int, rounding: str) -> int:
    # By way of the decimal that a person wrote: 1e-5 is 10^13 units, and not one more.
    return int((Decimal(repr(value)) * unit).to_integral_value(rounding=rounding))
