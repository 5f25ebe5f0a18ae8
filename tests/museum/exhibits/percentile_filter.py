"""A filter called privacy that adds no noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, right_run, without_noise
from tests.simulation.attack.releases import Training


def filtered(_mechanism: Mechanism, clipped: ClippedSum, _source: ChaCha20Source) -> Sequence[torch.Tensor]:
    """Zeroes the smallest tenth of the numbers and cuts the others to half a clipping norm."""
    clean = without_noise(clipped)
    sizes = torch.cat([tensor.flatten() for tensor in clean]).abs()
    least, most = torch.quantile(sizes, 0.1), clipped.bound / 2
    return [torch.where(t.abs() < least, 0.0, t).clamp(-most, most) for t in clean]


def show(_place: Path) -> Shown:
    audited = one_run(Training(release=filtered))
    return Shown(flagged=audited.flagged, control=right_run().flagged, figures=audited.figures)


EXHIBIT = Exhibit(
    title="A privacy filter without noise",
    threads=(
        Thread(name="FLIP#1145", url="https://github.com/londonaicentre/FLIP/issues/1145"),
        Thread(name="MediSwarm#530", url="https://github.com/KatherLab/MediSwarm/issues/530"),
    ),
    shipped=(
        "NVFlare's percentile filter zeroes the smallest numbers of an update and truncates the others. "
        "Its documentation says no more than that. A platform of hospitals had it in every job, "
        "labelled as differential privacy."
    ),
    seen=(
        "a filter named for privacy in each job's configuration, an accuracy that hardly falls, and no "
        "ε. Here one of {claimed} is claimed for it."
    ),
    says=(
        "the one-run audit shows ε ≥ {shown} from {of}, which is as far as it looks: what is released "
        "is a function of the data."
    ),
    here=(
        "a release is a clipped value with a mechanism's noise, which are types: a step without noise "
        'is `mechanism = "none"`, has no ε but ∞, and says so in job, report and receipt '
        "([`base_plan.py`](../privacy/accounting/base_plan.py))."
    ),
    found_by="the one-run audit",
    show=show,
)
