"""Per-example gradients whose rows are tokens."""

from __future__ import annotations

import re
from pathlib import Path

from client.training.gradients import HookedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from tests.models import adapt, make_examples, make_job, qwen2_moe
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, right_run, unit_check
from tests.simulation.attack.releases import Training, clip_tokens


def show(_place: Path) -> Shown:
    audited = one_run(Training(clip=clip_tokens))
    mixed = HookedGradients(adapt(qwen2_moe(), make_job(targets=["shared_expert.gate_proj"])))
    refusal = ""
    try:
        check_privacy_unit(mixed, make_examples((3, 5, 7, 9)))
    except PrivacyUnitError as error:
        refusal = str(error)
    found = re.search(r"(\d+) rows .* (\d+) examples", refusal)
    return Shown(
        flagged=audited.flagged and found is not None,
        control=right_run().flagged or unit_check() is not None,
        figures=audited.figures | {"rows": found[1], "examples": found[2]} if found else {},
    )


EXHIBIT = Exhibit(
    title="Rows that are not examples",
    threads=(
        Thread(
            name="opacus#650",
            url="https://github.com/meta-pytorch/opacus/issues/650",
        ),
    ),
    shipped=(
        "Opacus takes the first dimension of a layer's input for the examples, and its own attention "
        "layer put the sequence there: what was clipped was no example's gradient, but that of a "
        "position in all of them."
    ),
    seen=(
        "nothing, where the sizes happen to fit, and ε = {claimed}. An example of four tokens that are "
        "clipped one by one adds up to four clipping norms."
    ),
    says=(
        "the one-run audit shows ε ≥ {shown} from {of}. The unit check refuses such a layer before "
        "anything is trained: of a mixture's shared expert it says that hooks find {rows} rows for "
        "{examples} examples."
    ),
    here=(
        "every method's gradients are compared with autograd on each example alone "
        "([`gradient_check.py`](../client/training/gradient_check.py)), and where rows are tokens a "
        "model is trained one example at a time."
    ),
    found_by="the unit check, the one-run audit",
    show=show,
)
