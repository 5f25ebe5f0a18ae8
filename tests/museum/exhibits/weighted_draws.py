"""A sampler that draws some examples oftener, charged at the mean rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy.audit.poisson_draws import draws_p_value
from privacy.mechanisms.rng import ChaCha20Source
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import claim
from tests.simulation.attack.releases import CANARIES, STEPS, Training

TINY = 1e-100
_HEAVY, _RATE = CANARIES // 4, 0.7


def weighted(source: ChaCha20Source, _step: int) -> NDArray[np.int64]:
    """Draws a quarter of the examples at 0.7 and the others at 0.1: at 0.25 in the mean."""
    heavy = source.poisson_sample(_HEAVY, rate=_RATE)
    return np.concatenate([heavy, _HEAVY + source.poisson_sample(CANARIES - _HEAVY, rate=0.1)])


def drawn(training: Training) -> float:
    plan = claim()
    return draws_p_value(training.draws(plan, seed=0), steps=STEPS, rate=plan.sampling_rate)


def show(_place: Path) -> Shown:
    found = drawn(Training(draw=weighted))
    return Shown(
        flagged=found < TINY,
        control=drawn(Training()) < 0.001,
        figures={
            "claimed": f"{claim().epsilon:.2f}",
            "heavy": f"{replace(claim(), sampling_rate=_RATE).epsilon:.1f}",
            "p": f"{TINY:g}",
        },
    )


EXHIBIT = Exhibit(
    title="A weighted sampler at the wrong rate",
    threads=(
        Thread(name="opacus#813", url="https://github.com/meta-pytorch/opacus/issues/813"),
        Thread(name="opacus#600", url="https://github.com/meta-pytorch/opacus/issues/600"),
    ),
    shipped=(
        "Given a loader with a weighted sampler, Opacus took the sampling rate from the sampler's "
        "length, thousands of times too high, and put a uniform sampler in the weighted one's place: "
        "budgets that burn in an epoch, and weights that do nothing. Whoever puts the weights back and "
        "charges the mean rate errs the other way, which is what is shown here."
    ),
    seen=(
        "ε = {claimed} for all, while a quarter of the examples is drawn in 0.7 of the steps and loses "
        "ε = {heavy}."
    ),
    says=(
        "the one-run audit counts how often each canary was drawn: as Poisson samples at one rate these "
        "counts have p < {p}."
    ),
    here=(
        "no job has weights for examples: each is drawn by the plan's one rate, from the source that "
        "noise comes from ([`rng.py`](../privacy/mechanisms/rng.py))."
    ),
    found_by="the one-run audit's draws",
    show=show,
)
