"""A noisy sum that is divided by how many examples were drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

import client.training.step
from client.training.optimizer import PrivateOptimizer
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import unit_check
from tests.museum.widths import by_width


class OverThoseDrawn(PrivateOptimizer):
    """Divides by the examples that were drawn."""

    drawn = 0

    def clip_and_accumulate(self) -> None:
        self.drawn += len(self.params[0].grad_sample)
        super().clip_and_accumulate()

    def scale_grad(self) -> None:
        super().scale_grad()
        for parameter in self.params:
            parameter.grad *= self.expected_batch_size / max(self.drawn, 1)
        self.drawn = 0


def show(_place: Path) -> Shown:
    shown = by_width(without=2, with_canary=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.training.step, "PrivateOptimizer", OverThoseDrawn)
        refusal = unit_check()
    return Shown(
        flagged=shown > 1.0 and "the clipped sum moves" in (refusal or ""),
        control=by_width(without=3, with_canary=3) > 1.0 or unit_check() is not None,
        figures={"shown": f"{shown:.1f}"},
    )


EXHIBIT = Exhibit(
    title="A mean over those who were drawn",
    threads=(
        Thread(name="opacus#420", url="https://github.com/meta-pytorch/opacus/issues/420"),
        Thread(
            name="AdaClip",
            url="https://github.com/meta-pytorch/opacus/blob/main/opacus/optimizers/adaclipoptimizer.py",
            note="where version 1.6 divides a noisy count by the batch that was drawn",
        ),
    ),
    shipped=(
        "A Poisson sample has another size each time, and it is tempting to divide by the size that it "
        "has. The thread asks for that, and adaptive clipping did it to its count. The noise then tells "
        "the size, which tells whether one more was drawn."
    ),
    seen="ε = 1, and steps that are a little smoother.",
    says=(
        "many runs: the width of the noise alone shows ε ≥ {shown} for a third example beside two. One "
        "run's canaries cannot tell, since it is one number for all of them. The unit check refuses, "
        "because the sum of a small batch comes out too large."
    ),
    here=(
        "a step is divided by the expected batch size, whoever was drawn "
        "([`sum_check.py`](../client/training/sum_check.py))."
    ),
    found_by="many runs, the unit check",
    show=show,
)
