"""Each tensor clipped by itself, and noise for one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import client.training.optimizer
from privacy.mechanisms.clipping import STEPS, ClippedSum, clip_gradients
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import LLAMA, one_run, unit_check
from tests.simulation.attack.releases import Training


def by_layer(gradients: list[torch.Tensor], *, bound: float, norm: int, steps: float = STEPS) -> ClippedSum:
    """Clips each tensor of an example to the whole bound."""
    sums = [clip_gradients([g], bound=bound, norm=norm, steps=steps).tensors[0] for g in gradients]
    return ClippedSum(tensors=tuple(sums), bound=bound, norm=norm, zeroed=0, steps=steps)


def show(_place: Path) -> Shown:
    audited = one_run(Training(clip=lambda gradients, bound: by_layer(gradients, bound=bound, norm=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.training.optimizer, "clip_found", by_layer)
        refusal = unit_check() or ""
    found = re.search(r"moves by ([\d.]+) clipping norms when an example is left out", refusal)
    return Shown(
        flagged=found is not None and not audited.flagged,
        control=unit_check() is not None,
        figures=audited.figures
        | {"moves": found[1] if found else "", "tensors": str(len(LLAMA.adapted().trained))},
    )


EXHIBIT = Exhibit(
    title="Layers clipped one by one",
    threads=(
        Thread(name="fedbiomed#1443", url="https://github.com/fedbiomed/fedbiomed/issues/1443"),
        Thread(
            name="opacus#202",
            url="https://github.com/meta-pytorch/opacus/issues/202",
            note="where a user takes the right noise for a mistake",
        ),
    ),
    shipped=(
        "Fed-BioMed's central privacy clips each parameter to the norm that is meant for all of them. "
        "With k tensors an update may be √k times as long as the noise is made for. Opacus, whose noise "
        "grows with √k, was asked why."
    ),
    seen="ε = {claimed}, and clipping that is there for everyone to see.",
    says=(
        "the unit check refuses: with {tensors} tensors, leaving one example out moves the clipped sum "
        "by {moves} clipping norms. The one-run audit cannot tell (ε ≥ {shown}): each of its canaries "
        "has its gradient in one tensor."
    ),
    here=(
        "an example's norm is over all tensors together "
        "([`clipping.py`](../privacy/mechanisms/clipping.py))."
    ),
    found_by="the unit check",
    show=show,
)
