"""What three attackers see of one run, along the canaries' coordinates, and how they score it.

``site``
    reads what the canaries' site sends each round: the coordinator, where updates are not hidden.
``rounds``
    sees what each round releases: every adapter, or what leads from one to the next.
``adapter``
    has the last adapter alone, and knows where the run began.

All know the job, and the first two all examples but the canaries: what these add is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom  # type: ignore[import-untyped]

from privacy.accounting.sampled_plan import SampledPlan
from protocol.job.layout import AdapterLayout
from protocol.job.strategy import Strategy
from simulation.attack.canaries import Canaries
from simulation.attack.canary_trainer import SentRound


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one attacker sees: a row for each of r releases, a column for each of m canaries.

    ``values``, float64[r, m], grow where a canary is in. ``signal`` is what the canary's draws account for,
    float64[r, m], were it in, which no attacker knows; None where it cannot be told apart. ``noise`` is the
    planned noise's standard deviation, float64[r]; ``unit`` what one draw adds, float64[r]; ``steps`` how
    often a canary may have been drawn, int.
    """

    attacker: str
    values: NDArray[np.float64]
    signal: NDArray[np.float64] | None
    noise: NDArray[np.float64]
    unit: NDArray[np.float64]
    steps: int

    def scores(self, plan: SampledPlan) -> NDArray[np.float64]:
        """Each canary's logarithm of how likely it is in, over that it is out: float64[m].

        It is a guess for noise that is not Gaussian, as good a score as any.
        """
        draws = np.arange(self.steps + 1)
        chances = binom.logpmf(draws, self.steps, plan.sampling_rate)
        total = np.zeros(self.values.shape[1])
        for values, noise, unit in zip(self.values, self.noise, self.unit, strict=True):
            steps = unit / noise * draws
            exponents = values[:, None] / noise * steps - steps**2 / 2 + chances
            total += np.logaddexp.reduce(exponents, axis=1)
        return total


def seen_from_site(sent: Mapping[int, SentRound], canaries: Canaries, *, linear: bool) -> Observed:
    """What the canaries' own site sent, in order of the rounds; ``linear`` if steps only add up."""
    rounds = [sent[number] for number in sorted(sent)]
    others = np.stack([one.contributed.others for one in rounds])
    return Observed(
        attacker="site",
        values=-np.stack([one.update for one in rounds]) - (others if linear else 0.0),
        signal=_signal(rounds, canaries) if linear else None,
        noise=np.array([one.contributed.noise for one in rounds]),
        unit=np.array([one.contributed.unit for one in rounds]),
        steps=len(rounds[0].contributed.weights),
    )


def seen_in_rounds(
    adapters: Sequence[NDArray[np.float32]],
    sent: Mapping[str, Mapping[int, SentRound]],
    canaries: Canaries,
    *,
    strategy: Strategy,
    linear: bool,
) -> Observed:
    """What led from each adapter to the next in the rounds that the canaries' site was in.

    ``sent`` is by site and round. Values are the mean of the sites', times their number.
    """
    own, values, noise = sent[canaries.site], [], []
    for number in sorted(own):
        there = [rounds[number].contributed for rounds in sent.values() if number in rounds]
        change = moved(canaries.layout, strategy, adapters[number - 1], adapters[number])
        row = -len(there) * change[canaries.places]
        values.append(row - sum(one.others for one in there) if linear else row)
        noise.append(math.hypot(*(one.noise for one in there)))
    rounds = [own[number] for number in sorted(own)]
    return Observed(
        attacker="rounds",
        values=np.stack(values),
        signal=_signal(rounds, canaries) if linear else None,
        noise=np.array(noise),
        unit=np.array([one.contributed.unit for one in rounds]),
        steps=len(rounds[0].contributed.weights),
    )


def seen_in_adapter(
    first: NDArray[np.float32],
    last: NDArray[np.float32],
    rounds: Observed,
    canaries: Canaries,
    *,
    strategy: Strategy,
    sites: int,
) -> Observed:
    """What led from the first adapter to the last; ``rounds`` says how large signal and noise are."""
    row = -sites * moved(canaries.layout, strategy, first, last)[canaries.places]
    row = row - np.median(row)
    # What others add is not known, and is as good as noise: taken as wide as values are.
    wide = float(np.median(np.abs(row))) / 0.6745
    return Observed(
        attacker="adapter",
        values=row[None],
        signal=None,
        noise=np.array([max(wide, float(np.linalg.norm(rounds.noise)))]),
        unit=np.array([rounds.unit.mean()]),
        steps=rounds.steps * len(rounds.unit),
    )


def moved(
    layout: AdapterLayout,
    strategy: Strategy,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
) -> NDArray[np.float64]:
    """How far the trained numbers are from one adapter to another: float64[update_size].

    Where a strategy chose the pairs' factors anew, the later product is written with the earlier A: what
    was trained was B beside that.
    """
    start, end = layout.split(before), layout.split(after)
    found = []
    for slot in (slot for slot in layout.slots if slot.trained):
        partner = slot.name.replace(".lora_B.", ".lora_A.")
        then = end[slot.name].astype(np.float64)
        if strategy.basis_turns and partner != slot.name and not strategy.trains(partner):
            new, old = end[partner].astype(np.float64), start[partner].astype(np.float64)
            then = then @ (new @ np.linalg.pinv(old))
        found.append((then - start[slot.name]).ravel())
    return np.concatenate(found)


def _signal(rounds: Sequence[SentRound], canaries: Canaries) -> NDArray[np.float64]:
    return np.stack([one.contributed.signal for one in rounds]) * canaries.present
