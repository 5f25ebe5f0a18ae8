"""Membership from what each round released: whether an update holds an example's own gradient.

A round's sum is that of the gradients of those who were drawn, and its noise. Whoever holds the round's
first adapter computes any example's gradient there. The gradients of other examples hide it, but not in all
directions alike: there are more trained numbers than examples in a step, and an example's gradient lies
mostly where the others are not. So what others add is measured by their second moments, on a sample of
them, and each direction counts by how little of that there is. What noise adds, and steps that drift from
where gradients are computed, is not believed to be as planned: several guesses are tried on a shadow.

Source: Nasr, Shokri and Houmansadr 2019 (arXiv:1812.00910) attack rounds by gradients; the likelihood is
that of a Gaussian with the others' second moments, and ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom  # type: ignore[import-untyped]

from client.training.gradients import losses
from client.training.sparse_rows import dense
from client.training.training import learning_rate
from privacy.accounting.sampled_plan import SampledPlan
from simulation.attack.attack_targets import SiteTargets, examples_in
from simulation.attack.canary_gradients import clipping_shares, exact
from simulation.attack.observed import moved
from simulation.simulated_federation import World

# So many examples are matched at most, and others' gradients are known by as many.
MATCHED = 2000
# Guesses at what noise and drift add to each direction, over what others add to one in the mean.
GUESSES = tuple(10.0**k for k in range(4, -9, -1))
# Of larger updates so many numbers are looked at.
_NUMBERS = 8192
_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Some of one site's examples: at ``rows`` of it, drawn by its ``plan`` in each step.

    What others are like is known by those at ``others``, which may be the same. Both are in rising order.
    """

    site: SiteTargets
    rows: NDArray[np.int64]
    others: NDArray[np.int64]
    plan: SampledPlan


def match_gradients(
    world: World,
    adapters: Sequence[NDArray[np.float32]],
    matched: Sequence[Matched],
    *,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """How likely each matched example was drawn, over that it was not, in logarithms: float64[guesses, m].

    There is a row for each of ``GUESSES``. ``adapters`` are those before the first round and after each.
    Sites must all be in each round, and rounds release plain means of sums of steps.
    """
    layout, job = world.adapted.layout, world.job
    steps, sites = job.training.local_steps, len(matched)
    places = np.arange(layout.update_size)
    if len(places) > _NUMBERS:
        places = np.sort(generator.choice(places, _NUMBERS, replace=False))
    # Of those that are attacked half are in.
    present = [len(one.site.whole) - len(one.site.rows) / 2 for one in matched]
    drawn = steps * sum(n * one.plan.sampling_rate for n, one in zip(present, matched, strict=True))
    chances = np.concatenate([np.full(len(one.rows), one.plan.sampling_rate) for one in matched])
    total = np.zeros((len(GUESSES), len(chances)))
    # Steps begin at 0, 1, 2, … of so many parts of the way: gradients are computed at their mean.
    middle = (steps - 1) / (2 * steps)
    for number in range(1, len(adapters)):
        weight = np.mean([learning_rate(job.training, number, step) for step in range(steps)])
        change = moved(layout, job.strategy, adapters[number - 1], adapters[number])
        seen = -sites * change[places] * job.training.batch_size / max(float(weight), 1e-300)
        world.adapted.train_in(number)
        world.adapted.load(layout.apply(adapters[number - 1], (middle * change).astype(np.float32)))
        found = [_gradients(world, one, places) for one in matched]
        own, others = (np.concatenate(parts) for parts in zip(*found, strict=True))
        total += _likelihoods(seen, own, others, drawn=drawn, chances=chances, steps=steps)
    return total


def _gradients(
    world: World, one: Matched, places: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The clipped gradients of a site's matched examples, and of its others: float64[n, len(places)]."""
    rows = np.union1d(one.rows, one.others)
    activations = one.site.activations if one.site.activations.work else None
    loss, method = losses(world.adapted, activations), world.trainer.gradients
    world.adapted.peft.train()
    found = np.zeros((len(rows), len(places)))
    order = {int(row): place for place, row in enumerate(rows)}
    chosen = torch.from_numpy(places)
    for batch in one.site.whole.batches(rows, rows=examples_in(_ROWS, of=one.site.whole)):
        rows_of = dense(method.backward(batch, loss))
        parts = {name: tensor.flatten(1) for name, tensor in rows_of.items()}
        shares = clipping_shares(parts, one.plan)[:, None]
        every = torch.cat(list(parts.values()), dim=1)
        kept = (torch.nan_to_num(exact(every[:, chosen.to(every.device)])) * shares).cpu().numpy()
        found[[order[int(index)] for index in batch.indices]] = kept
    return found[np.searchsorted(rows, one.rows)], found[np.searchsorted(rows, one.others)]


def _likelihoods(
    seen: NDArray[np.float64],
    own: NDArray[np.float64],
    others: NDArray[np.float64],
    *,
    drawn: float,
    chances: NDArray[np.float64],
    steps: int,
) -> NDArray[np.float64]:
    """One round's part of each example's score, float64[guesses, m], from what was ``seen``, float64[d].

    What others add is taken for Gaussian, of ``drawn`` times their gradients' second moment, with their
    mean as it fits best. What the sample does not span counts as noise.
    """
    scale, numbers = drawn / len(others), len(seen)
    values, vectors = np.linalg.eigh(others @ others.T)
    kept = values > 1e-9 * values[-1]
    # An orthonormal basis of what the sample spans, and others' variance along it.
    basis = (vectors[:, kept] / np.sqrt(values[kept])).T @ others
    variances = scale * values[kept]
    columns = np.column_stack([own.T, seen, others.mean(0)])
    inside = basis @ columns
    outside = columns - basis.T @ inside
    unspanned = drawn * float(np.square(outside[:, : len(own)]).mean())
    draws = np.arange(steps + 1)
    found = []
    for guess in GUESSES:
        rest = unspanned + guess * float(variances.sum()) / numbers
        # Products under the inverse of the whole variance, with what was seen and with the others' mean.
        weights = 1.0 / (variances + rest)[:, None]
        to_seen, to_mean = (
            (inside * weights).T @ inside[:, place] + outside.T @ outside[:, place] / rest
            for place in (-2, -1)
        )
        lengths = (np.square(inside) * weights).sum(0) + np.square(outside).sum(0) / rest
        of_mean = to_mean[-2] / max(to_mean[-1], 1e-300)
        along, length = (to_seen - of_mean * to_mean)[:-2], lengths[:-2]
        exponents = along[:, None] * draws - length[:, None] * draws**2 / 2.0
        found.append(np.logaddexp.reduce(exponents + binom.logpmf(draws, steps, chances[:, None]), axis=1))
    return np.stack(found)
