"""Lower bounds on ε from what attackers saw: each of its own form, all of them true together.

The error that is allowed is divided among attackers and forms, and within a form among what it tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountant import epsilon_by_pld
from privacy.accounting.sampled_plan import SampledPlan
from privacy.audit.f_dp import Curve, curve_through, noise_refuted
from privacy.audit.gaussian_pair import separation_bound
from privacy.audit.guesses import Guesses, guess_shares
from privacy.audit.one_run import best_of, one_run_bound
from privacy.mechanisms.mechanism import Mechanism
from simulation.attack.canaries import Canaries
from simulation.attack.observed import Observed

Form = Literal["any", "curve", "gaussian"]

# Less noise than this, over the clipping norm, counts as this much: ε is far above any that is asked for.
_LEAST_NOISE = 0.1
# What the form "curve" tries: of the planned noise, from a sixteenth to four times as much.
_TRIED = tuple(2.0 ** (k / 8) for k in range(-32, 17))
# The δ at which a curve is computed.
_DELTAS = (*(10.0**-k for k in range(12, 1, -1)), 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
# A canary's place is compared with its tensor's others only if there are so many.
_ENOUGH = 8


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound on ε: who finds it, in which form, from which of the releases."""

    attacker: str
    form: Form
    epsilon: float
    of: str


def find_bounds(
    seen: Sequence[Observed], canaries: Canaries, plan: SampledPlan, *, error: float
) -> tuple[Bound, ...]:
    """All bounds: with probability 1 − ``error`` every one is under the ε of what it assumes."""
    tasks = [(one, form) for one in seen for form in forms_of(one, plan)]
    return tuple(_bound(one, form, canaries, plan, error=error / len(tasks)) for one, form in tasks)


def forms_of(seen: Observed, plan: SampledPlan) -> tuple[Form, ...]:
    """The forms that serve for what an attacker saw."""
    gaussian = seen.signal is not None and plan.mechanism.name == "gaussian"
    return ("any", "curve", "gaussian") if gaussian else ("any", "curve")


def _bound(seen: Observed, form: Form, canaries: Canaries, plan: SampledPlan, *, error: float) -> Bound:
    if form == "gaussian":
        share, of = largest_share(seen, canaries, error=error)
        return Bound(attacker=seen.attacker, form=form, epsilon=epsilon_with(plan, share), of=of)
    guesses = guess_shares(seen.scores(plan), canaries.present)
    if form == "any":
        epsilon = best_of(
            lambda one, e: one_run_bound(one, delta=plan.delta, error=e), guesses, error=error
        )
    else:
        epsilon = best_of(lambda one, e: _by_curve(one, plan, error=e), guesses, error=error)
    return Bound(attacker=seen.attacker, form=form, epsilon=epsilon, of="guesses")


def epsilon_with(plan: SampledPlan, share: float) -> float:
    """ε of the plan if its noise is this many times less; 0 for a share of 0."""
    if share <= 0.0:
        return 0.0
    multiplier = multiplier_with(plan.mechanism.multiplier, share)
    return replace(plan, mechanism=replace(plan.mechanism, multiplier=multiplier)).epsilon


def multiplier_with(planned: float, share: float) -> float:
    """The noise multiplier that counts where there is ``share`` times less noise than ``planned``."""
    return max(planned / share, min(_LEAST_NOISE, planned))


def largest_share(seen: Observed, canaries: Canaries, *, error: float) -> tuple[float, str]:
    """How many times less noise there is than planned, at the least, and where that was found.

    Half of the error is for all releases together; a quarter for each trained tensor by itself, since noise
    may be missing from one; a quarter for the difference of any two releases, which shows noise that
    was drawn twice.
    """
    if seen.signal is None:
        return 0.0, "nothing"
    scores, weights = seen.values / seen.noise[:, None], seen.signal / seen.noise[:, None]
    found = [(_separation(scores, weights, error=error / 2), "all releases")]
    several = {name: rows for name, rows in canaries.tensors.items() if len(rows) >= _ENOUGH}
    for name, rows in several.items():
        share = error / (4 * len(several))
        found.append((_separation(scores[:, rows], weights[:, rows], error=share), name))
    releases = len(scores)
    if releases > 1:
        # One pair is looked at, which the scores choose: so at the error that each of all would have.
        first, second = _most_alike(scores)
        share = error / (4 * math.comb(releases, 2))
        pair = _separation(scores[second] - scores[first], weights[second] - weights[first], error=share)
        # The noise of a difference is √2 times that of either.
        found.append((math.sqrt(2.0) * pair, f"releases {first + 1} and {second + 1}"))
    return max(found, key=lambda one: one[0])


def _most_alike(scores: NDArray[np.float64]) -> tuple[int, int]:
    """The two releases, of float64[r, m], whose difference is the smallest."""
    squares = np.square(scores).sum(axis=1)
    apart = squares[:, None] + squares[None, :] - 2.0 * (scores @ scores.T)
    apart[np.tril_indices(len(scores))] = np.inf
    first, second = np.unravel_index(int(apart.argmin()), apart.shape)
    return int(first), int(second)


def _separation(scores: NDArray[np.float64], weights: NDArray[np.float64], *, error: float) -> float:
    return separation_bound(scores.ravel(), weights.ravel(), error=error)


def _by_curve(guesses: Guesses, plan: SampledPlan, *, error: float) -> float:
    planned = plan.mechanism
    curve_of: Callable[[float], Curve] = lambda multiplier: plan_curve(  # noqa: E731
        replace(planned, multiplier=multiplier), plan.sampling_rate, plan.steps
    )
    tried = [planned.multiplier * times for times in _TRIED]
    least = noise_refuted(guesses, curve_of, among=tried, error=error)
    return epsilon_with(plan, planned.multiplier / least)


@lru_cache(maxsize=256)
def plan_curve(mechanism: Mechanism, sampling_rate: float, steps: int) -> Curve:
    """The trade-off curve of a training with this noise, through what it promises at several δ."""
    return curve_through(list(_promises(mechanism, sampling_rate, steps)))


def _promises(mechanism: Mechanism, sampling_rate: float, steps: int) -> Iterator[tuple[float, float]]:
    for delta in _DELTAS:
        epsilon = epsilon_by_pld(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps, delta=delta)
        yield epsilon, delta
