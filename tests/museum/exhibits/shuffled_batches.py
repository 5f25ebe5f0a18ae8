"""Shuffled batches, accounted for as Poisson samples."""

from __future__ import annotations

from pathlib import Path

from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.exhibits.weighted_draws import TINY, drawn
from tests.museum.looks import claim, one_run
from tests.simulation.attack.releases import Training, shuffled


def show(_place: Path) -> Shown:
    found, attacked = drawn(Training(draw=shuffled)), one_run(Training(draw=shuffled))
    return Shown(
        flagged=found < TINY and not attacked.flagged,
        control=drawn(Training()) < 0.001,
        figures={
            "claimed": f"{claim().epsilon:.2f}",
            "p": f"{TINY:g}",
            "shown": f"{attacked.shown:.1f}",
        },
    )


EXHIBIT = Exhibit(
    title="Shuffling accounted as Poisson",
    threads=(
        Thread(name="jax_privacy#272", url="https://github.com/google-deepmind/jax_privacy/pull/272"),
        Thread(name="opacus#80", url="https://github.com/meta-pytorch/opacus/issues/80"),
        Thread(name="tensorflow/privacy#483", url="https://github.com/tensorflow/privacy/issues/483"),
    ),
    shipped=(
        "Batches of one size go through shuffled data in turn, and the accountant is told that each "
        "example was drawn by a coin. It was, or is, what several libraries do unless told otherwise."
    ),
    seen="ε = {claimed}, for a way to draw that nobody has a tight analysis of.",
    says=(
        "the attacks find nothing (ε ≥ {shown}): those that assume nothing are weak, and the strong one "
        "takes the plan's word for the draws. The draws themselves give it away: each canary was drawn "
        "exactly once an epoch, which Poisson samples do with p < {p}."
    ),
    here=(
        "a step draws a fresh Poisson sample, and takes place when that is empty "
        "([`step.py`](../client/training/step.py))."
    ),
    found_by="the one-run audit's draws",
    show=show,
)
