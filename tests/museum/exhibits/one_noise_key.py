"""One key for the noise of all tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, keyed_source
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import one_run, unit_check
from tests.simulation.attack.releases import Training

_whole = Mechanism.release


def by_one_key(mechanism: Mechanism, clipped: ClippedSum, source: ChaCha20Source) -> Sequence[torch.Tensor]:
    """Each tensor's noise is drawn from the same key."""
    if not isinstance(source, ChaCha20Source):
        return _whole(mechanism, clipped, source)
    key, steps = source.seed(), clipped.steps
    return clipped.plus(
        [mechanism.noise(size, steps=steps, source=keyed_source(key)) for size in clipped.sizes]
    )


def show(_place: Path) -> Shown:
    audited = one_run(Training(release=by_one_key))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mechanism, "release", by_one_key)
        refusal = unit_check() or ""
    return Shown(
        flagged="expected noise of its own" in refusal and not audited.flagged,
        control=unit_check() is not None,
        figures=audited.figures,
    )


EXHIBIT = Exhibit(
    title="One key for all tensors",
    threads=(Thread(name="jax#3646", url="https://github.com/jax-ml/jax/pull/3646"),),
    shipped=(
        "JAX's own example of private training used one random key for the noise of every parameter. "
        "Tensors of one shape got the same noise, which their difference is free of."
    ),
    seen="ε = {claimed}, and noise of the right width in each tensor.",
    says=(
        "the one-run audit looks at each tensor by itself, where all is well (ε ≥ {shown}). The unit "
        "check compares the noise of tensors and of steps, and refuses."
    ),
    here=(
        "all tensors of a step take their noise from one stream, one after another "
        "([`mechanism.py`](../privacy/mechanisms/mechanism.py))."
    ),
    found_by="the unit check",
    show=show,
)
