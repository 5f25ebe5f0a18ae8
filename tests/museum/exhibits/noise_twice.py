"""Noise that is added twice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import NoiseSource
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import claim, one_run, right_run, unit_check
from tests.simulation.attack.releases import Training

_whole = Mechanism.noise


def twice(mechanism: Mechanism, size: int, *, steps: float, source: NoiseSource) -> NDArray[np.int64]:
    return _whole(mechanism, size, steps=steps, source=source) + _whole(
        mechanism, size, steps=steps, source=source
    )


def show(_place: Path) -> Shown:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mechanism, "noise", twice)
        refusal, audited = unit_check() or "", one_run(Training())
    # How much wider depends on which tensor is refused first: one of few numbers is, by chance, at more.
    found = re.search(r"is ([\d.]+) times as wide as planned", refusal)
    return Shown(
        flagged=found is not None and float(found[1]) > 1 and not audited.flagged,
        control=unit_check() is not None,
        figures={
            "claimed": f"{claim().epsilon:.2f}",
            "shown": f"{audited.shown:.1f}",
            "right": f"{right_run().shown:.1f}",
        },
    )


EXHIBIT = Exhibit(
    title="Noise twice",
    threads=(Thread(name="fedbiomed#1443", url="https://github.com/fedbiomed/fedbiomed/issues/1443"),),
    shipped=(
        "With central privacy switched on, Fed-BioMed added noise after local training and again after "
        "aggregation. It costs no privacy: it costs accuracy that was paid for."
    ),
    seen="ε = {claimed}, and a model that is worse than it has to be.",
    says=(
        "the one-run audit looks for too little noise and refutes nothing (ε ≥ {shown}, where right "
        "noise shows {right}). The unit check refuses, because noise is wider than planned."
    ),
    here=(
        "noise takes a clipped sum and leaves a float, which no mechanism takes; a second call raises "
        "([`optimizer.py`](../client/training/optimizer.py))."
    ),
    found_by="the unit check",
    show=show,
)
