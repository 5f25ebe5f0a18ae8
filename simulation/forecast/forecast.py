"""The forecast: what a job would cost and whether it can learn, before anything is spent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from client.budgets import BudgetLeft
from client.session import on_a_mix, plan_training
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.base_plan import Accountant
from privacy.accounting.mixed_plan import MixedPlan
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PlanError
from protocol.job.draw import cohort_size
from protocol.job.job import Job
from protocol.job.mix import planned_examples
from protocol.sums.sum_kinds import check_encoding, check_sums
from simulation.forecast.cost import Clock, Effort, estimate_effort
from simulation.forecast.crowd import fewest_sites
from simulation.forecast.noise_level import HOPELESS, NoiseLevel, Setup, format_ratio, noise_level
from simulation.forecast.phase_forecast import PhaseForecast, forecast_phases, noise_of_phases
from simulation.forecast.suggestions import Suggestion, suggest
from simulation.forecast.traffic import Traffic, traffic
from simulation.quiet import quiet
from simulation.simulated_federation import World

ACCOUNTANTS: tuple[Accountant, ...] = ("pld", "rdp", "prv")


@dataclass(frozen=True, kw_only=True)
class SiteForecast:
    """One site's part in a job; ``epsilon`` by accountant, None where that has no answer.

    ``noise_multiplier`` is in clipping norms, ``noise_std`` a coordinate's standard deviation in a step's
    sum. ``bands`` is 1 where steps' noise is independent, and ``noise_ratio`` what noise the site adds to
    the last adapter, over what independent noise would for the same ε.
    """

    name: str
    examples: int
    sampling_rate: float
    steps: int
    noise_multiplier: float
    noise_std: float
    bands: int
    noise_ratio: float
    epsilon: Mapping[Accountant, float | None]
    delta: float
    cautions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is known of a job before it runs. ``effort`` is an estimate, the rest is computed.

    ``phases`` are empty where the job has none. ``budgets`` are those of the ledgers that were read; None
    if none was asked for. ``fewest_sites`` is the least number of sites, as large as these, with which
    noise is low; None where it is, or where none is known. ``remarks`` say how the base model was made
    whole.
    """

    job: Job
    parameters: int
    sites: tuple[SiteForecast, ...]
    phases: tuple[PhaseForecast, ...]
    noise: NoiseLevel
    fewest_sites: int | None
    traffic: Traffic
    effort: Effort
    suggestions: tuple[Suggestion, ...]
    budgets: tuple[BudgetLeft, ...] | None
    remarks: tuple[str, ...]

    def refuse_if_hopeless(self) -> None:
        """Raise PlanError, with what would help, if noise is likely to swamp what the job could learn."""
        if self.noise.verdict != "hopeless":
            return
        raise PlanError(
            f"noise swamps the signal: over the run it is {format_ratio(self.noise.run)} times the largest "
            f"possible signal, and above {HOPELESS:g} a job learns nothing; {self._advice()}, "
            "or pass --force"
        )

    def _advice(self) -> str:
        if self.phases:
            return "what would help is not tried with phases: plan each as a job of its own"
        return _advice(self.suggestions)

    def as_table(self) -> dict[str, Any]:
        """All of it as nested tables of plain values, for JSON."""
        table = asdict(self) | {"job": self.job.name}
        table["noise"] |= {"verdict": self.noise.verdict, "hopeless_above": HOPELESS}
        return table


def forecast(
    job: Job, *, budgets: tuple[BudgetLeft, ...] | None = None, clock: Clock = time.perf_counter
) -> Forecast:
    """Load what a job needs, without training, and say what it would cost and whether it can learn.

    ``budgets`` come from ``read_budgets``, where there are ledgers to read; ``clock`` gives seconds.
    Raises the UserErrors of what it reads, and PlanError, naming the site, where there can be no plan.
    """
    began = clock()
    world = World(job)
    sizes, counted = world.sizes, _counted(world)
    setup = Setup(job=job, layout=world.adapted.layout, examples=tuple(counted.values()))
    plans = _plans(setup, counted)
    manifest = world.manifest("plan")
    check_sums(manifest)
    check_encoding(manifest, update_size=setup.layout.update_size)
    loading = clock() - began
    cohort = cohort_size(job.federation.cohort, sites=len(sizes))
    phases = forecast_phases(setup, plans, cohort=cohort)
    noise = (
        noise_of_phases(phases, job)
        if phases
        else noise_level(plans, training=job.training, parameters=setup.parameters, cohort=cohort)
    )
    independent = _independent(job, counted, plans)
    effort = estimate_effort(world, examples=setup.examples, plans=independent, clock=clock)
    return Forecast(
        job=job,
        parameters=job.strategy.most_trained(setup.layout),
        sites=_sites(job, sizes, plans, independent),
        phases=phases,
        noise=noise,
        fewest_sites=None if phases else fewest_sites(setup, run=noise.run),
        traffic=traffic(world.job, setup.layout, dict(zip(sizes, plans, strict=True)), cohort=cohort),
        effort=replace(effort, seconds=effort.seconds + loading),
        suggestions=() if phases else suggest(setup, run=noise.run),
        budgets=budgets,
        remarks=(*world.adapted.base.remarks, *_of_sources(world, plans)),
    )


def _counted(world: World) -> dict[str, int]:
    """How many examples each site's plan is for. Raises PlanError, naming a site of a mix with too few."""
    found = world.sizes
    for name, parts in world.parts.items():
        try:
            found[name] = planned_examples(world.job, parts)
        except PlanError as error:
            raise PlanError(f"{name}: {error}") from error
    return found


def _of_sources(world: World, plans: Sequence[Plan]) -> Iterator[str]:
    """What an example of each source of a mix loses, at the site where it loses most: a sentence each."""
    largest: dict[str, tuple[float, float]] = {}
    for parts, plan in set(zip(world.parts.values(), plans, strict=False)):
        mixed = on_a_mix(plan, world.job, parts) if isinstance(plan, SampledPlan) else None
        if not isinstance(mixed, MixedPlan):
            continue
        for number, alias in enumerate(world.job.data.aliases):
            own = mixed.of_source(number)
            largest[alias] = max(largest.get(alias, (0.0, 0.0)), (own.sampling_rate, own.epsilon))
    for alias, (rate, epsilon) in largest.items():
        if math.isfinite(epsilon):
            loses = f"drawn at a rate of {rate:.3g} and loses epsilon={epsilon:.3g}"
            yield f"data.mix: an example of {alias} is {loses}"


def _plans(setup: Setup, sizes: Mapping[str, int]) -> list[Plan]:
    plans: dict[int, Plan] = {}
    for name, size in sizes.items():
        try:
            plans[size] = plans.get(size) or setup.plan(size)
        except PlanError as error:
            raise PlanError(f"{name}: {error}") from error
    return [plans[size] for size in sizes.values()]


def _independent(job: Job, sizes: Mapping[str, int], plans: Sequence[Plan]) -> list[SampledPlan]:
    """The plan of each site's local steps as if their noise was independent: that takes as much time.

    Noise for whole sites takes none of the training's.
    """
    privacy = job.privacy.model_copy(update={"noise_correlation": "none", "bands": None})
    plain = job.model_copy(update={"privacy": privacy})
    made: dict[tuple[int, Plan], SampledPlan] = {}
    for size, plan in zip(sizes.values(), plans, strict=True):
        if isinstance(plan, SampledPlan) and not isinstance(plan, BandedPlan):
            made[size, plan] = plan
        elif (size, plan) not in made:
            rounds = plan.steps // job.steps_in(1)
            made[size, plan] = plan_training(plain, size, rounds=rounds)
    return [made[size, plan] for size, plan in zip(sizes.values(), plans, strict=True)]


def _noise_ratio(job: Job, plan: Plan, independent: SampledPlan) -> float:
    if not isinstance(plan, BandedPlan):
        return 1.0
    weights = job.training.step_weights(plan.steps)
    return plan.noise_of_sum(weights) / independent.noise_of_sum(weights)


def _sites(
    job: Job, sizes: Mapping[str, int], plans: Sequence[Plan], independent: Sequence[SampledPlan]
) -> tuple[SiteForecast, ...]:
    epsilon = {plan: _epsilons(plan) for plan in set(plans)}
    return tuple(
        SiteForecast(
            name=name,
            examples=size,
            sampling_rate=plan.sampling_rate,
            steps=plan.steps,
            noise_multiplier=plan.mechanism.multiplier,
            noise_std=plan.noise_std,
            bands=plan.bands if isinstance(plan, BandedPlan) else 1,
            noise_ratio=_noise_ratio(job, plan, plain),
            epsilon=epsilon[plan],
            delta=plan.delta,
            cautions=plan.cautions(size),
        )
        for (name, size), plan, plain in zip(sizes.items(), plans, independent, strict=True)
    )


def _epsilons(plan: Plan) -> dict[Accountant, float | None]:
    """ε by each accountant; None where it is infinite, and for an accountant that has no answer."""
    # dp-accounting logs each Rényi order that it leaves out, which makes ε no smaller than it is.
    with quiet("absl", below=logging.ERROR):
        found = {name: plan.epsilon_by(name) for name in plan.accountants}
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    return {name: finite.get(name) for name in ACCOUNTANTS}


def _advice(suggestions: Sequence[Suggestion]) -> str:
    """What would help most, for one sentence."""
    if not suggestions:
        return "no change to this job lowers it"
    best = suggestions[0]
    how = f" ({', '.join(best.settings)})" if best.settings else ""
    short = "" if best.after <= HOPELESS else ", which is not enough by itself"
    change = f"{format_ratio(best.before)} -> {format_ratio(best.after)}{short}"
    return f"what would help most: {best.text}{how}, {change}"
