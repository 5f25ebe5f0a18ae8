"""A clipping norm that noise knows of and clipping does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import client.training.optimizer
from privacy.mechanisms.clipping import STEPS, ClippedSum, clip_gradients
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, right_run, unit_check
from tests.simulation.attack.releases import Training

_DEFAULT = 1.0


def by_default(
    gradients: list[torch.Tensor], *, bound: float, norm: int, steps: float = STEPS
) -> ClippedSum:
    """Clips to 1, and says that it clipped to ``bound``."""
    found = clip_gradients(gradients, bound=_DEFAULT, norm=norm, steps=steps)
    times = _DEFAULT / bound
    tensors = tuple((tensor.double() * times).round().long() for tensor in found.tensors)
    return replace(found, tensors=tensors, bound=bound)


def show(_place: Path) -> Shown:
    audited = one_run(Training(clip=lambda gradients, bound: by_default(gradients, bound=bound, norm=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.training.optimizer, "clip_found", by_default)
        refusal = unit_check() or ""
    return Shown(
        flagged=audited.flagged and "the clipped sum moves" in refusal,
        control=right_run().flagged or unit_check() is not None,
        figures=audited.figures,
    )


EXHIBIT = Exhibit(
    title="A clipping norm that is not passed on",
    threads=(Thread(name="opacus#664", url="https://github.com/meta-pytorch/opacus/pull/664"),),
    shipped=(
        "Opacus' fast gradient clipping did not get the engine's `max_grad_norm`, by which the "
        "optimizer makes the noise. Below, clipping is to 1, its default, and noise is for half of "
        "that."
    ),
    seen="ε = {claimed}, and a model that learns rather well.",
    says=(
        "the one-run audit shows ε ≥ {shown} from {of}; the unit check refuses, as the sum moves by "
        "more than one clipping norm."
    ),
    here=(
        "a clipped value carries its own bound, and noise is calibrated from the value "
        "([`clipping.py`](../privacy/mechanisms/clipping.py))."
    ),
    found_by="the one-run audit, the unit check",
    show=show,
)
