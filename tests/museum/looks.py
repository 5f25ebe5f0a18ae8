"""How exhibits are looked at: by the audits, as a user runs them or calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.gradients import HookedGradients
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.audit.many_runs import Hits, many_runs_bound
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source
from simulation.attack.attack_bounds import find_bounds
from tests.models import CASES
from tests.simulation.attack.releases import CANARIES, EXPECTED, STEPS, Training

ERROR = 0.05
DELTA = 1e-5
LLAMA = CASES["llama-qv"]


@cache
def claim(clipping_norm: float = 0.5) -> SampledPlan:
    """What a user is told: ε = 3 for eight steps, in each of which a quarter of the canaries is drawn."""
    return make_sampled_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=DELTA,
        clipping_norm=clipping_norm,
        expected_batch_size=EXPECTED,
        examples=CANARIES,
        steps=STEPS,
    )


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What the one-run audit says: ``shown`` against ``claimed``, and from ``of`` which releases."""

    claimed: float
    shown: float
    of: str

    @property
    def flagged(self) -> bool:
        return self.shown > self.claimed

    @property
    def figures(self) -> dict[str, str]:
        return {"claimed": f"{self.claimed:.2f}", "shown": f"{self.shown:.1f}", "of": self.of}


def one_run(training: Training, plan: SampledPlan | None = None) -> Audited:
    """The one-run audit of a training, right or wrong."""
    planned = plan or claim()
    seen, canaries = training.run(planned, seed=0)
    best = max(find_bounds([seen], canaries, planned, error=ERROR), key=lambda bound: bound.epsilon)
    return Audited(claimed=planned.epsilon, shown=best.epsilon, of=best.of)


@cache
def right_run(clipping_norm: float = 0.5) -> Audited:
    """The same of a training as it should be."""
    return one_run(Training(), claim(clipping_norm))


def unit_check() -> str | None:
    """What the unit check refuses a tiny Llama for, None if it passes."""
    try:
        check_privacy_unit(HookedGradients(LLAMA.adapted()), LLAMA.examples())
    except PrivacyUnitError as error:
        return str(error)
    return None


def many_runs(called: NDArray[np.bool_], present: NDArray[np.bool_], *, delta: float = DELTA) -> float:
    """ε that an attack shows by calling the canary in or not, bool[runs] each."""
    hits = Hits(
        runs_in=int(present.sum()),
        hits_in=int(called[present].sum()),
        runs_out=int((~present).sum()),
        hits_out=int(called[~present].sum()),
    )
    return many_runs_bound(hits, delta=delta, error=ERROR)


def coins(runs: int) -> NDArray[np.bool_]:
    """In which of so many runs the canary is."""
    return np.random.default_rng(7).random(runs) < 0.5


Release = Callable[[Mechanism, ClippedSum, ChaCha20Source], Sequence[torch.Tensor]]


def without_noise(clipped: ClippedSum) -> tuple[torch.Tensor, ...]:
    """What a release would be if there were no noise in it."""
    return clipped.plus([np.zeros(size, np.int64) for size in clipped.sizes])
