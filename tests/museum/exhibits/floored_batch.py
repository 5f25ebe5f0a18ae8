"""An expected batch size that follows from the private number of examples, rounded down."""

from __future__ import annotations

import math
from pathlib import Path

from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.widths import by_width

_BATCH = 2


def floored(examples: int) -> int:
    """What a sum is divided by: the examples over the number of batches that they make, rounded down."""
    return int(examples * (1 / math.ceil(examples / _BATCH)))


def show(_place: Path) -> Shown:
    without, with_canary = floored(4), floored(5)
    shown = by_width(without=without, with_canary=with_canary)
    right = by_width(without=_BATCH, with_canary=_BATCH)
    return Shown(
        flagged=shown > 1.0,
        control=right > 1.0,
        figures={"shown": f"{shown:.1f}", "without": str(without), "with_canary": str(with_canary)},
    )


EXHIBIT = Exhibit(
    title="An expected batch that one example halves",
    threads=(
        Thread(name="opacus#571", url="https://github.com/meta-pytorch/opacus/issues/571"),
        Thread(name="opacus#819", url="https://github.com/meta-pytorch/opacus/issues/819"),
    ),
    shipped=(
        "The expected batch size, which each noisy sum is divided by, is worked out from the number of "
        "examples and rounded down. That number is what neighbours differ in."
    ),
    seen=(
        "ε = 1. With four examples in batches of two a sum is divided by {without}; with a fifth there "
        "are three batches, and it is divided by {with_canary}: all noise is twice as wide."
    ),
    says="many runs: an attack that only measures how wide the noise is shows ε ≥ {shown}.",
    here=(
        "the denominator is the job's own `training.batch_size`, a public number, and neighbours are a "
        "data set with an example and the same with that example blank, so that the number of examples "
        "is public ([`sampled_plan.py`](../privacy/accounting/sampled_plan.py))."
    ),
    found_by="many runs",
    show=show,
)
