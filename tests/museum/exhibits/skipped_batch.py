"""An empty batch that is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import client.training.sum_check
from client.training.step import take_step
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import unit_check


def skipping(optimizer: Any, method: Any, batches: Any, loss: Any) -> None:
    if batches:
        take_step(optimizer, method, batches, loss)


def show(_place: Path) -> Shown:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.training.sum_check, "take_step", skipping)
        refusal = unit_check() or ""
    said = "no step is taken for a batch of 0 examples"
    return Shown(
        flagged=said in refusal,
        control=unit_check() is not None,
        figures={"said": said, "chance": f"{(1 - 0.03) ** 100:.0%}".replace("%", " %")},
    )


EXHIBIT = Exhibit(
    title="An empty batch that is skipped",
    threads=(
        Thread(name="FL4Health#114", url="https://github.com/VectorInstitute/FL4Health/pull/114"),
        Thread(name="opacus#522", url="https://github.com/meta-pytorch/opacus/issues/522"),
    ),
    shipped=(
        "A Poisson sample may be empty, frameworks crash on it, and the natural mend is to go on with "
        "the next one. A step without examples is noise alone. Without it, everyone sees that nobody "
        "was drawn."
    ),
    seen=("no more crashes. At a rate of 3 % of a hundred examples {chance} of the steps are missing."),
    says='the unit check refuses: "{said}".',
    here="an empty sample is a step like any other ([`step.py`](../client/training/step.py)).",
    found_by="the unit check",
    show=show,
)
