"""A training without a model: canaries' gradients, clipped, summed, hidden and sent, right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.clipping import ClippedSum, clip_gradients
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, keyed_source
from protocol.job.layout import AdapterLayout, TensorSlot
from simulation.attack.canaries import OVERLONG, Canaries
from simulation.attack.canary_gradients import Contributed
from simulation.attack.canary_trainer import SentRound
from simulation.attack.observed import Observed, seen_from_site

LAYOUT = AdapterLayout(
    slots=(
        TensorSlot(name="first", shape=(20, 10), trained=True),
        TensorSlot(name="second", shape=(200,), trained=True),
    )
)
CANARIES = LAYOUT.update_size
EXPECTED = 100
STEPS = 8
Clip = Callable[[list[torch.Tensor], float], ClippedSum]
Release = Callable[[Mechanism, ClippedSum, ChaCha20Source], Sequence[torch.Tensor]]


def plan(multiplier: float = 0.8, *, steps: int = STEPS) -> SampledPlan:
    """Steps over the canaries alone, a quarter of which is drawn in each."""
    return SampledPlan(
        mechanism=Mechanism(name="gaussian", multiplier=multiplier),
        clipping_norm=0.5,
        sampling_rate=EXPECTED / CANARIES,
        steps=steps,
        delta=1e-5,
    )


def clip_examples(gradients: list[torch.Tensor], bound: float) -> ClippedSum:
    return clip_gradients(gradients, bound=bound, norm=2)


def clip_tokens(gradients: list[torch.Tensor], bound: float) -> ClippedSum:
    """Wrong: each of an example's four tokens, whose gradients add up to its own, is clipped by itself."""
    return clip_gradients([torch.cat([g / 4] * 4) for g in gradients], bound=bound, norm=2)


def poisson(source: ChaCha20Source, _step: int) -> NDArray[np.int64]:
    return source.poisson_sample(CANARIES, rate=EXPECTED / CANARIES)


def shuffled(_source: ChaCha20Source, step: int) -> NDArray[np.int64]:
    """Wrong: batches of one size, in which every example is once an epoch."""
    epoch, place = divmod(step, CANARIES // EXPECTED)
    order = np.random.default_rng(1000 + epoch).permutation(CANARIES)
    return order[place * EXPECTED : (place + 1) * EXPECTED]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a site does: all of it as it should be, unless told otherwise.

    ``noise`` is over the planned one, ``noisy`` are the tensors that get it, ``stream`` names a step's
    noise, and ``release`` adds it.
    """

    noise: float = 1.0
    noisy: tuple[bool, bool] = (True, True)
    clip: Clip = clip_examples
    draw: Callable[[ChaCha20Source, int], NDArray[np.int64]] = poisson
    stream: Callable[[int], int] = field(default=lambda step: step)
    release: Release = Mechanism.release

    def run(self, planned: SampledPlan, *, seed: int) -> tuple[Observed, Canaries]:
        """A step a round, from which the site's update is seen."""
        generator = np.random.default_rng(seed)
        canaries = Canaries(
            site="site-1",
            rows=np.arange(CANARIES),
            places=generator.permutation(CANARIES),
            present=generator.random(CANARIES) < 0.5,
            layout=LAYOUT,
        )
        multiplier = planned.mechanism.multiplier * self.noise
        mechanism = Mechanism(name="gaussian", multiplier=multiplier)
        sent = {}
        for step in range(planned.steps):
            drawn = self.draw(keyed_source(seed, "sampling", step), step)
            found = self.clip(_gradients(canaries, drawn, planned.clipping_norm), planned.clipping_norm)
            released = self.release(mechanism, found, keyed_source(seed, "noise", self.stream(step)))
            clean = found.plus([np.zeros(size, np.int64) for size in found.sizes])
            chosen = [r if noisy else c for r, c, noisy in zip(released, clean, self.noisy, strict=True)]
            update = -torch.cat([tensor.flatten() for tensor in chosen]).numpy() / EXPECTED
            contributed = Contributed(
                plan=planned,
                signal=np.zeros(CANARIES),
                others=np.zeros(CANARIES),
                draws=np.zeros(CANARIES, np.int64),
                weights=[1 / EXPECTED],
            )
            contributed.signal[drawn] = planned.clipping_norm / EXPECTED
            contributed.draws[drawn] = 1
            sent[step + 1] = SentRound(contributed=contributed, update=update[canaries.places])
        return seen_from_site(sent, canaries, linear=True), canaries

    def draws(self, planned: SampledPlan, *, seed: int) -> NDArray[np.int64]:
        """How often each canary is drawn in a run."""
        counts = np.zeros(CANARIES, np.int64)
        for step in range(planned.steps):
            counts[self.draw(keyed_source(seed, "sampling", step), step)] += 1
        return counts


def _gradients(canaries: Canaries, drawn: NDArray[np.int64], bound: float) -> list[torch.Tensor]:
    rows = torch.zeros(len(drawn), CANARIES)
    rows[torch.arange(len(drawn)), torch.from_numpy(canaries.places[drawn])] = OVERLONG * bound
    rows[torch.from_numpy(~canaries.present[drawn])] = 0.0
    first, second = rows.split([slot.size for slot in LAYOUT.slots], dim=1)
    return [first.view(len(drawn), 20, 10), second]
