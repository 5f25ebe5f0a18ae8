"""Norms in half precision, where small gradients have none."""

from __future__ import annotations

from pathlib import Path

import torch

from privacy.mechanisms import clipping
from privacy.mechanisms.clipping import ClippedSum
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import claim, one_run, right_run
from tests.simulation.attack.releases import Training

_SMALL = 1e-5


def by_half_norms(gradients: list[torch.Tensor], bound: float) -> ClippedSum:
    """Clips by norms whose squares are float16: under 2^-24 they are zero."""
    rows = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
    lengths = rows.half().square().sum(dim=1).sqrt().double()
    factors = (bound / lengths.clamp(min=bound)) * (clipping.STEPS / bound)
    sums = [torch.einsum("n,n...->...", factors, g.double()).round().long() for g in gradients]
    return ClippedSum(tensors=tuple(sums), bound=bound, norm=2, zeroed=0)


def show(_place: Path) -> Shown:
    audited = one_run(Training(clip=by_half_norms), claim(_SMALL))
    return Shown(
        flagged=audited.flagged,
        control=right_run(_SMALL).flagged or one_run(Training(clip=by_half_norms)).flagged,
        figures=audited.figures | {"bound": f"{_SMALL:g}".replace("e-0", "e-")},
    )


EXHIBIT = Exhibit(
    title="Gradients too small to be clipped",
    threads=(
        Thread(name="jax_privacy#309", url="https://github.com/google-deepmind/jax_privacy/pull/309"),
    ),
    shipped=(
        "jax_privacy took the norm of float16 gradients in float16. Where all squares are under the "
        "least number of that format they are zero, so is the norm, and nothing is clipped."
    ),
    seen="ε = {claimed} at a clipping norm of {bound}.",
    says=(
        "the one-run audit, whose canaries are four clipping norms long, shows ε ≥ {shown} from {of}. "
        "At a clipping norm of 0.5 the same code passes, as it should: nothing underflows there."
    ),
    here=(
        "norms are sums of exact squares in float64, whatever the gradients' format, and one that is "
        "not finite zeroes its example ([`clipping.py`](../privacy/mechanisms/clipping.py))."
    ),
    found_by="the one-run audit",
    show=show,
)
