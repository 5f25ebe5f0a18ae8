"""Noise in floating point, whose last bits tell what it was added to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.clipping import clip
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import coins, many_runs

_RUNS = 2000


def in_floats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Laplace noise of scale 1 on numbers in [0, 1], as any library draws it."""
    return values + np.random.default_rng(17).laplace(scale=1.0, size=len(values))


def on_the_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, each value clipped, on the grid, and noised with integers."""
    mechanism, source = Mechanism(name="laplace", multiplier=1.0), keyed_source(17, "floats")
    released = [mechanism.release(clip(v[None], bound=1.0, norm=1), source) for v in values]
    return np.concatenate(released)


def shown_of(released: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """ε that the last bits show: 1 plus noise is a multiple of 2^-53, and noise by itself often is not."""
    scaled = released * 2.0**53
    return many_runs(scaled == np.floor(scaled), present, delta=0.0)


def show(_place: Path) -> Shown:
    present = coins(_RUNS)
    values = present.astype(np.float64)
    shown = shown_of(in_floats(values), present)
    return Shown(
        flagged=shown > 1.0,
        control=shown_of(on_the_grid(values), present) > 1.0,
        figures={"shown": f"{shown:.1f}"},
    )


EXHIBIT = Exhibit(
    title="Noise in floating point",
    threads=(
        Thread(name="diffprivlib#19", url="https://github.com/IBM/differential-privacy-library/issues/19"),
        Thread(name="smartnoise-core#242", url="https://github.com/opendp/smartnoise-core/issues/242"),
        Thread(name="opendp#414", url="https://github.com/opendp/opendp/issues/414"),
    ),
    shipped=(
        "Textbook Laplace noise in float64, added to a float64. Sums of floats have the coarser grid of "
        "the two, so that some results come of one value alone (Mironov 2012). Three libraries had it, "
        "one of them after a first mend."
    ),
    seen="ε = 1.",
    says="many runs: whether the result is a multiple of 2^-53 shows ε ≥ {shown}.",
    here=(
        "values and noise are integers on a grid that no value chooses; only the noisy sum becomes a "
        "float ([`exact_noise.py`](../privacy/mechanisms/exact_noise.py), "
        "[mechanisms.md](mechanisms.md))."
    ),
    found_by="many runs",
    show=show,
)
