"""How much noise there is in an average of a run's adapters: known to all from what the sites signed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.plan import SitePlan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import RunError
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.counted_sum import GRADIENT_STEPS
from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.job.tensor_rates import rate_factor
from runs.run_folder import RunFolder


def noise_of_average(
    folder: RunFolder, layout: AdapterLayout, weights: NDArray[np.float64]
) -> dict[str, float]:
    """Standard deviation of the noise in each coordinate of Σ wₜ · (the adapter after round t), by tensor.

    ``weights``, float64[rounds], are of a run's first rounds, and add up to 1. A round's noise is in each
    adapter after it. It follows from plans, learning rates and who was in which round, all of which are
    public: exactly so where updates are sums of steps that are added up, as ``Strategy.shrinks`` and the
    job's check see to. Correlated noise is what is left of it. Raises RunError for receipts that are lost.
    """
    manifest = folder.manifest
    stays = np.cumsum(weights[::-1])[::-1]
    told = [_receipts(folder, number) for number in range(1, len(weights) + 1)]
    noise, found = dict[tuple[float, ...], float](), dict[str, float]()
    for slot in layout.slots:
        if not slot.sent:
            continue
        trained = manifest.job.trained_rounds
        own = tuple(
            float(stay) if trained.trains_in(slot.name, number) else 0.0
            for number, stay in enumerate(stays, start=1)
        )
        if own not in noise:
            noise[own] = _noise(manifest, told, own)
        faster = 1.0 if manifest.job.privacy.hides_sites else rate_factor(manifest.job.training, slot.name)
        found[slot.name] = faster * noise[own]
    return found


def _receipts(folder: RunFolder, number: int) -> dict[str, Receipt]:
    keys = folder.public_keys
    return {name: signed.read(keys[name]) for name, signed in folder.receipts(number).items()}


def _noise(manifest: Manifest, told: Sequence[Mapping[str, Receipt]], stays: Sequence[float]) -> float:
    """The noise of rounds that count as ``stays`` says, at a learning rate that no tensor's key changes."""
    if manifest.job.privacy.hides_sites:
        return math.hypot(*(stay * _of_sites(manifest, by) for by, stay in zip(told, stays, strict=True)))
    return _of_steps(manifest, told, stays)


def _of_sites(manifest: Manifest, receipts: Mapping[str, Receipt]) -> float:
    """A round's noise where its sum has it: over the weights of those that are in it."""
    plan = next(iter(receipts.values())).plan
    if not isinstance(plan, SitePlan):
        raise RunError("expected a plan that hides whole sites in the run's receipts")
    whole = math.fsum(manifest.weight(name) for name in receipts)
    return plan.summed_noise_std(len(receipts)) / whole


def _of_steps(manifest: Manifest, told: Sequence[Mapping[str, Receipt]], stays: Sequence[float]) -> float:
    """That of all sites' steps: each counts by its rate and by its site's part of the mean."""
    job, plans = manifest.job, dict[str, SampledPlan]()
    steps = dict[str, NDArray[np.float64]]()
    for number, (receipts, stay) in enumerate(zip(told, stays, strict=True), start=1):
        training = job.phase_of(number).training
        whole = math.fsum(manifest.weight(name) for name in receipts)
        rates = stay * training.rates_in(number) / training.batch_size
        for name, receipt in receipts.items():
            if not isinstance(receipt.plan, SampledPlan):
                raise RunError("expected a plan that hides examples in the run's receipts")
            plans[name] = receipt.plan
            own = steps.setdefault(name, np.zeros(receipt.plan.steps))
            # Rounds that were interrupted took steps too, which are in no adapter.
            own[receipt.taken - receipt.steps : receipt.taken] += rates * (manifest.weight(name) / whole)
    found = math.hypot(*(plan.noise_of_sum(steps[name]) for name, plan in plans.items()))
    # Beside a count, a gradient has a little less than the whole of a release's length.
    counted = job.privacy.clipping_quantile is not None
    return found * (STEPS / GRADIENT_STEPS if counted else 1.0)
