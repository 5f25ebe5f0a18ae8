"""Noise against signal: how far noise can drown what a job learns, known before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from client.session import plan_training
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.plan import Plan, SitePlan
from privacy.errors import PlanError
from protocol.job.draw import cohort_size
from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.job.phases import Phase
from protocol.job.training_section import TrainingSection
from protocol.sums.update_encoding import plan_for_site

# Over a run, in units of the largest possible signal. Above the first accuracy suffers, above the second
# nothing was learned at any learning rate: docs/plan.md has the runs that these come from.
HIGH = 0.2
HOPELESS = 3.0


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """The noise's norm over the largest norm that the signal can have; no units, 0 without noise.

    ``site_step`` is of one step of a site (the noisiest), ``step`` of the mean over the sites, and ``run``
    of all steps' sum. The signal is largest if all clipped gradients of all sites and steps point one way,
    so in truth the noise is more against it than these say. Derivation: docs/plan.md.
    """

    site_step: float
    step: float
    run: float

    @property
    def verdict(self) -> str:
        """``low``, ``high``, or ``hopeless``: noise is likely to drown everything."""
        if self.run > HOPELESS:
            return "hopeless"
        return "high" if self.run > HIGH else "low"

    def bearable(self, learning_rate: float) -> float:
        """The learning rate for this much noise, if ``learning_rate`` suits a job with little.

        Noise moves the weights by the product of both: above ``HIGH`` it is kept where it is there.
        """
        return learning_rate * min(1.0, HIGH / self.run) if self.run else learning_rate


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the noise of a run depends on: the job, what it trains, and ``examples``, one number a site."""

    job: Job
    layout: AdapterLayout
    examples: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """The numbers that noise is added to: trained in a round, or sent where sites are hidden."""
        hides_sites, strategy = self.job.privacy.hides_sites, self.job.strategy
        return self.layout.update_size if hides_sites else strategy.most_trained(self.layout)

    def parameters_in(self, phase: Phase) -> int:
        """The same of one phase."""
        if self.job.privacy.hides_sites or not phase.head_alone:
            return self.parameters
        return self.job.trained_rounds.in_round(self.layout, phase.first_round).trained_size

    def plans(self) -> tuple[Plan, ...]:
        """Each site's plan, in the order of ``examples``. Raises PlanError where there can be none."""
        by_size = {size: self.plan(size) for size in set(self.examples)}
        return tuple(by_size[size] for size in self.examples)

    def plan(self, examples: int) -> Plan:
        """The plan of a site with so many examples, in as many rounds as any is drawn in."""
        sites = len(self.examples)
        if not self.job.privacy.hides_sites:
            return plan_training(self.job, examples, rounds=self.job.most_rounds(sites=sites))
        # No name and no model's digest is in a plan.
        manifest = Manifest(
            run="plan",
            job=self.job,
            cohort=cohort_size(self.job.federation.cohort, sites=sites),
            sites=self._names(),
            labels=(),
            model_digest="",
            layout_digest=self.layout.digest,
        )
        return plan_for_site(manifest, update_size=self.layout.update_size)

    def noise_level(self) -> NoiseLevel:
        """Noise against signal. Raises PlanError where there can be no plan."""
        return noise_level(
            self.plans(),
            training=self.job.training,
            parameters=self.parameters,
            cohort=cohort_size(self.job.federation.cohort, sites=len(self.examples)),
        )

    def _names(self) -> tuple[str, ...]:
        """Some names to draw from, where sites are drawn."""
        if self.job.federation.cohort is None:
            return ()
        return tuple(sorted(f"site-{number}" for number in range(1, len(self.examples) + 1)))


def noise_level(
    plans: Iterable[Plan], *, training: TrainingSection, parameters: int, cohort: int | None = None
) -> NoiseLevel:
    """Noise against signal of sites with these plans that train ``parameters`` numbers.

    So many of them as ``cohort`` says are in a round, or all.

    A site's step is (sum of clipped gradients + noise) / batch. The noise has norm std · √parameters, the
    sum at most batch times a clipped gradient's. Independent noises add up in squares: over the sites,
    whose mean is taken, and over the steps, each weighed by its learning rate. Raises PlanError without a
    plan.
    """
    plans = tuple(plans)
    cohort = cohort or len(plans)
    if plans and isinstance(plans[0], SitePlan):
        return _of_sites(plans[0], sites=cohort, rounds=training.rounds, parameters=parameters)
    ratios = [
        plan.noise_std * math.sqrt(parameters) / (training.batch_size * _clipped_length(plan, parameters))
        for plan in plans
    ]
    if not ratios:
        raise PlanError("expected the plan of at least one site, got none")
    # In a mean over a cohort that is drawn any site may be: the mean of the squares counts.
    step = math.sqrt(math.fsum(ratio**2 for ratio in ratios) / len(ratios) / cohort)
    left = [_left(plan, training) * ratio for plan, ratio in zip(plans, ratios, strict=True)]
    run = math.sqrt(math.fsum(ratio**2 for ratio in left) / len(left) / cohort)
    return NoiseLevel(site_step=max(ratios), step=step, run=run / math.sqrt(steps_in_effect(training)))


def _left(plan: Plan, training: TrainingSection) -> float:
    """How much of the noise of a site's steps is left in their sum, over that of as many independent."""
    if not isinstance(plan, BandedPlan):
        return 1.0
    weights = training.step_weights(plan.steps)
    return plan.noise_of_sum(weights) / (plan.noise_std * float(np.linalg.norm(weights)))


def _of_sites(plan: SitePlan, *, sites: int, rounds: int, parameters: int) -> NoiseLevel:
    """Noise for whole sites is in the sum of a round, and at most ``sites`` clipped updates are."""
    # Where it is drawn in shares, all of them are in a sum, and fewer were counted on.
    step = plan.summed_noise_std(sites) * math.sqrt(parameters) / (sites * plan.clipping_norm)
    return NoiseLevel(site_step=sites * step, step=step, run=step / math.sqrt(rounds))


def _clipped_length(plan: Plan, parameters: int) -> float:
    """The L2 norm of a clipped gradient.

    Clipped in L1, a gradient keeps its L2 norm only if it has a single coordinate: one whose coordinates
    are like normal numbers has √(π / (2 · parameters)) of it.
    """
    if plan.mechanism.norm == 2:
        return plan.clipping_norm
    return plan.clipping_norm * min(1.0, math.sqrt(math.pi / (2 * parameters)))


def steps_in_effect(training: TrainingSection) -> float:
    """How many steps of one learning rate average noise as well as these: (Σ η)² / Σ η².

    All of them with a constant rate, about three quarters with ``decay = "linear"``.
    """
    total = training.total_steps
    if training.decay == "none":
        return float(total)
    # Rates fall from 1 in steps of 1 / total: sums of the first whole numbers and of their squares.
    plain, squares = total * (total + 1) / 2, total * (total + 1) * (2 * total + 1) / 6
    return plain**2 / squares


def format_ratio(value: float) -> str:
    """A noise level as people read it: two digits, as 0.029, 0.42 or 11."""
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
