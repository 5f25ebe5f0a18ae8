"""Sparse vectors whose ε is that of one number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from privacy.accounting.accountant import epsilon_pure
from privacy.mechanisms.mechanism import Mechanism
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import coins, many_runs

_EACH = 0.1  # what one released number costs, which is what the filter's setting says of all
_RUNS = 2000


def costs(numbers: int) -> float:
    """ε of so many numbers, each under Laplace noise for ``_EACH``: they are one vector of an L1 norm."""
    return epsilon_pure(
        mechanism=Mechanism(name="laplace", multiplier=1 / (numbers * _EACH)), sampling_rate=1.0, steps=1
    )


def shown_of(numbers: int) -> float:
    """ε that their sum shows: a canary moves each number from one end of its range to the other."""
    present = coins(_RUNS)
    noise = np.random.default_rng(5).laplace(scale=1 / _EACH, size=(_RUNS, numbers))
    sums = present * numbers + noise.sum(axis=1)
    # Far out, where false alarms are rare: the threshold is fixed before anything is drawn.
    threshold = numbers / 2 + np.sqrt(2 * numbers) / _EACH
    return many_runs(sums > threshold, present)


def show(_place: Path) -> Shown:
    shown = shown_of(400)
    return Shown(
        flagged=shown > _EACH,
        control=shown_of(1) > _EACH,
        figures={
            "shown": f"{shown:.1f}",
            "small": f"{costs(400):.0f}",
            "stock": f"{costs(703_330):,.0f}",
        },
    )


EXHIBIT = Exhibit(
    title="An ε of 0.1 that is 70,333",
    threads=(Thread(name="FLIP#1145", url="https://github.com/londonaicentre/FLIP/issues/1145"),),
    shipped=(
        "NVFlare's sparse vector filter picks a tenth of an update's numbers and releases each with "
        "Laplace noise for ε = 0.1. The thread measures it on seven million parameters: one round at "
        "stock settings costs ε = 70,333."
    ),
    seen="`epsilon=0.1` in the configuration.",
    says=(
        "many runs: of 400 numbers an attack by no more than their sum shows ε ≥ {shown}. The "
        "accountant says {small} for 400, and {stock} for 703,330, as the thread does."
    ),
    here=(
        "noise is calibrated to the norm of the whole clipped vector: a value bounded in L1 takes "
        "Laplace noise for that bound, and no other "
        "([`mechanism.py`](../privacy/mechanisms/mechanism.py)). A mechanism that picks coordinates by "
        "data is not offered: the support that compression shares follows from a public seed "
        "([`sparsification.py`](../protocol/sums/sparsification.py))."
    ),
    found_by="many runs",
    show=show,
)
