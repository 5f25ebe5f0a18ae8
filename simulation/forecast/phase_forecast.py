"""What each phase of a job would cost, and how far noise drowns what it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from privacy.accounting.phased_plan import phases_of
from privacy.accounting.plan import Plan
from protocol.job.job import Job
from protocol.job.phases import Phase
from simulation.forecast.noise_level import NoiseLevel, Setup, noise_level


@dataclass(frozen=True, kw_only=True)
class PhaseForecast:
    """One phase at a site: its releases, ``steps``, and the numbers that each of them adds noise to.

    ``noise_multiplier`` and ``epsilon``, which is the ε of the phase alone, are of the site where they are
    largest. What phases cost together is less than the sum of these.
    """

    name: str
    rounds: int
    steps: int
    train: str
    parameters: int
    learning_rate: float
    batch_size: int
    noise_multiplier: float
    epsilon: float | None
    noise: NoiseLevel


def forecast_phases(setup: Setup, plans: Sequence[Plan], *, cohort: int) -> tuple[PhaseForecast, ...]:
    """Each phase of a job by itself, in order, by the sites' ``plans``; none where it has no phases."""
    job = setup.job
    if not job.phase:
        return ()
    return tuple(_forecast(setup, plans, number, phase, cohort) for number, phase in enumerate(job.phases))


def noise_of_phases(phases: Sequence[PhaseForecast], job: Job) -> NoiseLevel:
    """Noise against signal of the whole run: noises add up in squares, and signals as they are.

    A phase's signal is the sum of its learning rates, or of its rounds where whole sites are hidden.
    """
    signals = [phase.training.rounds if job.privacy.hides_sites else _rates(phase) for phase in job.phases]
    noise = math.hypot(*(one.noise.run * signal for one, signal in zip(phases, signals, strict=True)))
    return NoiseLevel(
        site_step=max(one.noise.site_step for one in phases),
        step=max(one.noise.step for one in phases),
        run=noise / sum(signals),
    )


def _forecast(setup: Setup, plans: Sequence[Plan], number: int, phase: Phase, cohort: int) -> PhaseForecast:
    job, training = setup.job, phase.training
    steps = training.rounds * job.steps_in(phase.first_round)
    own = [_in_phase(plan, number, steps) for plan in plans]
    parameters = setup.parameters_in(phase)
    epsilon = max(plan.epsilon for plan in set(own))
    return PhaseForecast(
        name=phase.name,
        rounds=training.rounds,
        steps=steps,
        train="head" if phase.head_alone else job.strategy.name,
        parameters=parameters,
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        noise_multiplier=max(plan.mechanism.multiplier for plan in own),
        epsilon=epsilon if math.isfinite(epsilon) else None,
        noise=noise_level(own, training=training, parameters=parameters, cohort=cohort),
    )


def _in_phase(plan: Plan, number: int, steps: int) -> Plan:
    """A phase's steps as a plan of their own."""
    return phases_of(plan)[number] if phases_of(plan) else replace(plan, steps=steps)


def _rates(phase: Phase) -> float:
    training = phase.training
    return training.learning_rate * float(training.step_weights(training.total_steps).sum())
