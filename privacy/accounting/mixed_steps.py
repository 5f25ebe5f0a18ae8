"""From steps that differ in noise and rate to ε: their privacy loss distributions, composed on one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from privacy.accounting.accountant import (
    RENYI_ORDERS,
    choose_grid,
    epsilon_from_renyi,
    least_grid,
    on_fitting_grid,
    renyi,
    step_losses,
)
from privacy.accounting.composition import Losses, epsilon_of_many, joint_window
from privacy.mechanisms.mechanism import Mechanism


@dataclass(frozen=True, kw_only=True)
class Steps:
    """``count`` steps with one mechanism, which adds noise, each on a fresh Poisson sample."""

    mechanism: Mechanism
    sampling_rate: float
    count: int


@lru_cache(maxsize=1024)
def epsilon_of_mixed(steps: tuple[Steps, ...], *, delta: float, horizon: tuple[Steps, ...]) -> float:
    """ε at ``delta`` of all these steps, in whatever order they are taken: an upper bound.

    ``horizon`` are the steps that the grid is chosen for: values for one horizon grow with what is added.
    Time and memory are bounded whatever the numbers are; where that leaves nothing to compose, ε is by
    Rényi divergences. Raises PlanError without noise.

    Source: Koskela et al. 2020 (arXiv:1906.03049), section 6, for steps that differ: the loss of a
    composition is distributed as the sum of its parts' losses; and Zhu, Dong and Wang 2022
    (arXiv:2106.08567), theorem 10: choosing later queries by what earlier ones told does not make it more.
    """
    grid = _fitting_grid(horizon)
    if steps and grid is not None:
        found = max(
            epsilon_of_many(parts, joint_window(parts), delta=delta) for parts in _both_ways(steps, grid)
        )
        if math.isfinite(found):
            return found
    # There is no distribution to compose, or δ is not above what floats add over so many steps.
    return epsilon_of_mixed_by_order(steps, delta=delta)


def epsilon_of_mixed_by_order(steps: tuple[Steps, ...], *, delta: float) -> float:
    """ε at ``delta`` by Rényi divergences in closed form, at integer orders: an upper bound, looser."""
    if not steps:
        return 0.0
    spent = {
        order: sum(
            kind.count * renyi(mechanism=kind.mechanism, sampling_rate=kind.sampling_rate, order=order)
            for kind in steps
        )
        for order in RENYI_ORDERS
    }
    return epsilon_from_renyi(spent, delta=delta)


@lru_cache(maxsize=16)
def _fitting_grid(horizon: tuple[Steps, ...]) -> float | None:
    """The finest grid that any kind of step wants, and all fit on; None where it would say little."""
    total = sum(kind.count for kind in horizon)
    wanted = min(choose_grid(kind.mechanism, kind.sampling_rate, total) for kind in horizon)
    grid = max(wanted, *(least_grid(kind.mechanism, kind.sampling_rate) for kind in horizon))

    def on(grid: float) -> tuple[float, int]:
        windows = [joint_window(parts) for parts in _both_ways(horizon, grid)]
        return grid, max(high - low + 1 for low, high in windows)

    return on_fitting_grid(on, grid=grid)


def _both_ways(steps: tuple[Steps, ...], grid: float) -> tuple[list[tuple[Losses, int]], ...]:
    """The losses of removing an example, and of adding one, each with how many steps have it."""
    each = [(_losses(kind.mechanism, kind.sampling_rate, grid), kind.count) for kind in steps]
    # At rate 1 both are the same, and there is one.
    return tuple([(losses[way], count) for losses, count in each] for way in (0, -1))


@lru_cache(maxsize=32)
def _losses(mechanism: Mechanism, sampling_rate: float, grid: float) -> tuple[Losses, ...]:
    return step_losses(mechanism, sampling_rate, grid)
