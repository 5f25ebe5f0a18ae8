"""From what was released to ε: privacy loss distributions, and Rényi orders beside them."""

from __future__ import annotations

from functools import lru_cache

import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from privacy.mechanisms import Mechanism

_PLD_INTERVAL = 1e-3


def training_event(*, mechanism: Mechanism, sampling_rate: float, steps: int) -> dp.DpEvent:
    """The event of ``steps`` steps, each on a fresh Poisson sample at ``sampling_rate``.

    Adjacency is add-or-remove-one example (Abadi et al. 2016, arXiv:1607.00133).
    """
    step = dp.PoissonSampledDpEvent(sampling_rate, mechanism.event)
    return dp.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=4096)
def epsilon_by_pld(
    *, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float
) -> float:
    """ε at ``delta`` by composing privacy loss distributions, rounded upwards.

    Source: Koskela et al. 2020 (arXiv:1906.03049) as dp-accounting implements it, with loss values
    rounded up to a grid of 1e-3, so the result is an upper bound.
    """
    if steps == 0:
        return 0.0
    event = training_event(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps)
    accountant = PLDAccountant(value_discretization_interval=_PLD_INTERVAL)
    return float(accountant.compose(event).get_epsilon(delta))


def epsilon_by_rdp(
    *, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float
) -> float:
    """ε at ``delta`` by Rényi differential privacy (Mironov et al. 2019, arXiv:1908.10530)."""
    if steps == 0:
        return 0.0
    event = training_event(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps)
    return float(RdpAccountant().compose(event).get_epsilon(delta))
