"""A clipping norm that follows the data, and whose cost is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privacy.ledger.ledger_audit import agrees, recomputed_epsilon
from privacy.mechanisms.mechanism import Mechanism
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import claim

_COUNT_NOISE = 1.0  # standard deviation of what is added to the count of unclipped examples


def show(_place: Path) -> Shown:
    both = claim()  # what the gradients and the count cost together: Andrew et al. 2021, theorem 1
    asked = both.mechanism.multiplier
    gradients = (asked**-2 - (2 * _COUNT_NOISE) ** -2) ** -0.5
    charged = replace(both, mechanism=Mechanism(name="gaussian", multiplier=gradients))
    recomputed = recomputed_epsilon(both, both.steps)
    return Shown(
        flagged=not agrees(charged.epsilon, recomputed),
        control=not agrees(both.epsilon, recomputed),
        figures={
            "printed": f"{charged.epsilon:.2f}",
            "recomputed": f"{recomputed:.2f}",
            "gradients": f"{gradients:.2f}",
            "asked": f"{asked:.2f}",
        },
    )


EXHIBIT = Exhibit(
    title="Adaptive clipping that is not charged",
    threads=(
        Thread(name="opacus#757", url="https://github.com/meta-pytorch/opacus/issues/757"),
        Thread(
            name="opacus#807",
            url="https://github.com/meta-pytorch/opacus/issues/807",
            note="not read; after the code of version 1.6 and what #757 quotes of the code before",
        ),
    ),
    shipped=(
        "Adaptive clipping counts, under noise, how many gradients are under the clipping norm. To pay "
        "for the count, gradients get more noise than was asked for. The optimizer kept that larger "
        "number where the accountant looks, so that the count came free."
    ),
    seen=(
        "ε = {printed}, for noise of {gradients} clipping norms in place of the {asked} that were asked "
        "for, where the count has noise of 1."
    ),
    says=(
        "the second accountant, told of both releases, finds ε = {recomputed}, and calls what is "
        "printed too low. By itself no audit finds it: a ledger has the releases that it is told of."
    ),
    here=(
        "the clipping norm is the job's. A mechanism is charged with what it is told to be, and noise "
        "follows from the clipped value's own bound, not from a number kept elsewhere "
        "([`mechanism.py`](../privacy/mechanisms/mechanism.py))."
    ),
    found_by=None,
    show=show,
)
