"""Noise whose key begins again when a run goes on."""

from __future__ import annotations

from pathlib import Path

from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, right_run
from tests.simulation.attack.releases import Training

_BEFORE = 6  # steps before the run is interrupted


def show(_place: Path) -> Shown:
    audited = one_run(Training(stream=lambda step: step % _BEFORE))
    return Shown(flagged=audited.flagged, control=right_run().flagged, figures=audited.figures)


EXHIBIT = Exhibit(
    title="Noise that begins again",
    threads=(
        Thread(
            name="diffprivlib#31",
            url="https://github.com/IBM/differential-privacy-library/issues/31",
            note="where the maintainers warn of it",
        ),
        Thread(
            name="VeOmni#1189",
            url="https://github.com/ByteDance-Seed/VeOmni/pull/1189",
            note="where a resumed trainer replayed its noise, in another field",
        ),
    ),
    shipped=(
        "A run is resumed from a checkpoint that has weights and no state of the generator: its first "
        "steps get the noise of the run's first steps once more. Their difference has none."
    ),
    seen="ε = {claimed}, and a run that goes on where it was.",
    says="the one-run audit compares every two releases and shows ε ≥ {shown} from {of}.",
    here=(
        "noise is keyed afresh by the operating system each time that it is drawn "
        "([`rng.py`](../privacy/mechanisms/rng.py)); a round that was trained is answered in the same "
        "words and not trained again. Keyed noise is a simulation's, which its report says."
    ),
    found_by="the one-run audit",
    show=show,
)
