"""From what was released to ε: privacy loss distributions, and Rényi orders beside them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import dp_accounting as dp
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from privacy.errors import PlanError
from privacy.mechanisms import Mechanism

# Privacy losses are rounded to a grid, upwards in ε: what that adds grows with steps · grid². This
# grid, in nats, adds under 0.1 % over this many steps; more steps get a finer one.
_GRID, _GRID_STEPS = 5e-3, 100


def training_event(*, mechanism: Mechanism, sampling_rate: float, steps: int) -> dp.DpEvent:
    """The event of ``steps`` steps, each on a fresh Poisson sample at ``sampling_rate``.

    Adjacency is zero-out: one example contributes or does not, and the rate is the same in both cases. Its
    privacy loss is that of adding or removing one (Abadi et al. 2016, arXiv:1607.00133).
    """
    step = dp.PoissonSampledDpEvent(sampling_rate, mechanism.event)
    return dp.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=4096)
def epsilon_by_pld(
    *, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float, horizon: int | None = None
) -> float:
    """ε at ``delta`` of a training by composing privacy loss distributions: an upper bound.

    ``horizon`` is the number of steps that the grid is chosen for, ``steps`` by default: values for one
    horizon grow with ``steps`` and share their preparation.

    Source: Koskela et al. 2020 (arXiv:1906.03049), pessimistic discretization as in dp-accounting.
    """
    if steps == 0:
        return 0.0
    composed = _distribution(mechanism, sampling_rate, _grid(horizon or steps), steps)
    return float(composed.get_epsilon_for_delta(delta))


def epsilon_by_rdp(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` by Rényi differential privacy (Mironov et al. 2019, arXiv:1908.10530)."""
    if steps == 0:
        return 0.0
    event = training_event(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps)
    return float(RdpAccountant().compose(event).get_epsilon(delta))


@lru_cache(maxsize=64)
def _distribution(mechanism: Mechanism, sampling_rate: float, grid: float, steps: int) -> Any:
    """The privacy loss of ``steps`` steps, from that of fewer.

    Composed by the binary digits of ``steps``, so that each round of a run needs a composition or two, and
    the result is the same whichever were asked for before.
    """
    if steps == 1:
        return _step_distribution(mechanism, sampling_rate, grid)
    last = steps & -steps  # the lowest digit; half of a power of two
    last = last // 2 if last == steps else last
    rest = _distribution(mechanism, sampling_rate, grid, steps - last)
    return rest.compose(_distribution(mechanism, sampling_rate, grid, last))


# Building one step's distribution costs ten times what composing two does.
@lru_cache(maxsize=64)
def _step_distribution(mechanism: Mechanism, sampling_rate: float, grid: float) -> Any:
    if mechanism.name == "none":
        raise PlanError("a training without noise has no privacy loss distribution: ε is infinite")
    build = pld.from_laplace_mechanism if mechanism.name == "laplace" else pld.from_gaussian_mechanism
    return build(mechanism.multiplier, value_discretization_interval=grid, sampling_prob=sampling_rate)


def _grid(steps: int) -> float:
    """The grid halves each time that the number of steps grows fourfold, four times at most.

    Beyond 25,600 steps ε is still an upper bound, only less tight: a finer grid takes minutes.
    """
    halvings = math.ceil(math.log2(max(1.0, math.sqrt(steps / _GRID_STEPS))))
    return float(_GRID / 2 ** min(halvings, 4))
