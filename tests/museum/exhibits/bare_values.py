"""Values that are chosen for noise, and of which some are released without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, unit_check, without_noise
from tests.simulation.attack.releases import Training

_whole = Mechanism.release


def with_holes(mechanism: Mechanism, clipped: ClippedSum, source: ChaCha20Source) -> Sequence[torch.Tensor]:
    """Leaves the noise out of every tenth number."""
    released, found = _whole(mechanism, clipped, source), []
    for noisy, clean in zip(released, without_noise(clipped), strict=True):
        bare = (torch.arange(noisy.numel()) % 10 == 0).view_as(noisy)
        found.append(torch.where(bare, clean, noisy))
    return found


def show(_place: Path) -> Shown:
    audited = one_run(Training(release=with_holes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mechanism, "release", with_holes)
        refusal = unit_check() or ""
    return Shown(
        flagged="are released without noise" in refusal and not audited.flagged,
        control=unit_check() is not None,
        figures=audited.figures | {"refusal": refusal.partition(": ")[2]},
    )


EXHIBIT = Exhibit(
    title="Numbers that noise passes over",
    threads=(
        Thread(name="NVFlare#343", url="https://github.com/NVIDIA/NVFlare/issues/343"),
        Thread(name="NVFlare#1214", url="https://github.com/NVIDIA/NVFlare/issues/1214"),
    ),
    shipped=(
        "The sparse vector filter drew the numbers to release from those that it had accepted, with "
        "replacement. What was accepted and not drawn was neither zeroed nor noised: it left clipped, "
        "and bare."
    ),
    seen="ε = {claimed}, and an update of which nine numbers in ten are noisy.",
    says=(
        "the one-run audit misses it (ε ≥ {shown}): it looks at all of a tensor, and there is nearly "
        "all of the noise. The unit check draws a step for nobody and refuses: {refusal}."
    ),
    here=(
        "noise is drawn for a whole clipped sum at once, and each number of it is looked at "
        "([`noise_check.py`](../client/training/noise_check.py))."
    ),
    found_by="the unit check",
    show=show,
)
