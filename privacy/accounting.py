"""From what was released to ε: privacy loss distributions, and Rényi orders beside them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dp_accounting as dp
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from privacy.errors import PlanError
from privacy.mechanisms import Mechanism

# Losses are rounded up to a grid of this many nats: each step's ε is too large by at most this.
_GRID = 1e-3


def training_event(*, mechanism: Mechanism, sampling_rate: float, steps: int) -> dp.DpEvent:
    """The event of ``steps`` steps, each on a fresh Poisson sample at ``sampling_rate``.

    Adjacency is add-or-remove-one example (Abadi et al. 2016, arXiv:1607.00133).
    """
    step = dp.PoissonSampledDpEvent(sampling_rate, mechanism.event)
    return dp.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=4096)
def epsilon_by_pld(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` of a training by composing privacy loss distributions: an upper bound.

    Source: Koskela et al. 2020 (arXiv:1906.03049), pessimistic discretization as in dp-accounting.
    """
    if steps == 0:
        return 0.0
    step = _step_distribution(mechanism, sampling_rate)
    return float(step.self_compose(steps).get_epsilon_for_delta(delta))


def epsilon_by_rdp(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` by Rényi differential privacy (Mironov et al. 2019, arXiv:1908.10530)."""
    if steps == 0:
        return 0.0
    event = training_event(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps)
    return float(RdpAccountant().compose(event).get_epsilon(delta))


# Building one step's distribution costs ten times what composing it does: a run builds it once.
@lru_cache(maxsize=256)
def _step_distribution(mechanism: Mechanism, sampling_rate: float) -> Any:
    if mechanism.name == "none":
        raise PlanError("a training without noise has no privacy loss distribution: ε is infinite")
    build = pld.from_laplace_mechanism if mechanism.name == "laplace" else pld.from_gaussian_mechanism
    return build(mechanism.multiplier, value_discretization_interval=_GRID, sampling_prob=sampling_rate)
