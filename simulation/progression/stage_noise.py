"""The noise of stages, such that one unit in all of them has one (ε, δ): by their exact composition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.session import plan_training
from privacy.accounting.phased_plan import PhasedPlan, PhaseToPlan, make_phased_plan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.job import Job
from simulation.progression.stages import Stage, Stages

# A stage's ε is rounded down to so many digits, as people write it into a job.
_DIGITS = 4
# By how much stages' ε are lowered if what sites would plan is too much together, and how often.
_LESS, _TRIES = 0.999, 20


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage's ``job`` with the ε that its noise means alone, and each site's plan by that job."""

    job: Job
    share: float | None
    examples: Mapping[str, int]
    plans: Mapping[str, SampledPlan]


@dataclass(frozen=True, kw_only=True)
class PlannedStages:
    """Stages that may run, and by site the ε of a unit that is in all of them, at ``delta``.

    Guarantee: a unit that is at one site once in each stage loses at most that, in whatever order the
    stages run and whatever later ones make of earlier ones' releases, for which all noise is fixed before
    the first. Stages are as ordinary runs to sites: their policies and ledgers see each one's own ε.
    """

    name: str
    epsilon: float
    delta: float
    stages: tuple[PlannedStage, ...]
    spent: Mapping[str, float]

    @property
    def protects(self) -> bool:
        """Whether there is any noise."""
        return self.stages[0].job.privacy.protects


def plan_stages(stages: Stages) -> PlannedStages:
    """Give each stage the ε with which all stages together are within the file's (ε, δ) at every site.

    At each site the shares are those of ``make_phased_plan``; a stage gets the least ε that it has at any
    site. Then what each site will plan by these ε is composed, and must be within what was asked. Without
    a mechanism the jobs stay as they are. Raises PlanError if no noise is enough.
    """
    if not stages.protects:
        return _planned(stages, [one.job for one in stages.stages])
    sites = list(stages.stages[0].examples)
    sizes = {tuple(one.examples[site] for one in stages.stages) for site in sites}
    found = [_alone(stages, counts) for counts in sorted(sizes)]
    least = [min(each) for each in zip(*found, strict=True)]
    for attempt in range(_TRIES):
        epsilons = [_rounded_down(one * _LESS**attempt) for one in least]
        planned = _planned(
            stages, [_promising(one, e, stages) for one, e in zip(stages.stages, epsilons, strict=True)]
        )
        if max(planned.spent.values()) <= stages.epsilon:
            return planned
    raise PlanError(
        f"no noise was found with which all stages are within epsilon={stages.epsilon:g} at every site: "
        "sites differ too much; use a federation.partition with sites that are alike"
    )


def composed(plans: Sequence[SampledPlan]) -> float:
    """ε of one unit that is in each of these plans once, at the δ that they have; infinite without noise.

    Source: as ``PhasedPlan``, which these are when they are taken one after another.
    """
    if not all(plan.protects for plan in plans):
        return math.inf
    multipliers = tuple(plan.mechanism.multiplier for plan in plans)
    rates = tuple(plan.sampling_rate for plan in plans)
    return PhasedPlan(
        mechanism=Mechanism(name="gaussian", multiplier=min(multipliers)),
        clipping_norm=1.0,  # multipliers are in each stage's own
        sampling_rate=max(rates),
        steps=sum(plan.steps for plan in plans),
        delta=plans[0].delta,
        lengths=tuple(plan.steps for plan in plans),
        rates=rates,
        multipliers=multipliers,
        unit=plans[0].unit,
    ).epsilon


def _alone(stages: Stages, counts: Sequence[int]) -> list[float]:
    """Each stage's ε by itself at a site with so many examples of each, where all stages share one loss."""
    plan = make_phased_plan(
        [
            PhaseToPlan(
                steps=one.job.total_steps,
                expected_batch_size=one.job.training.batch_size,
                share=one.share,
                examples=count,
            )
            for one, count in zip(stages.stages, counts, strict=True)
        ],
        epsilon=stages.epsilon,
        delta=stages.delta,
        clipping_norm=1.0,
        examples=counts[0],
        unit=stages.stages[0].job.privacy.sampled_unit,
    )
    return [phase.epsilon for phase in plan.phases]


def _promising(stage: Stage, epsilon: float, stages: Stages) -> Job:
    promised = {"epsilon": epsilon, "delta": stages.delta}
    return stage.job.model_copy(update={"privacy": stage.job.privacy.model_copy(update=promised)})


def _rounded_down(value: float) -> float:
    if not value > 0.0:
        raise PlanError(f"a stage's share leaves it epsilon={value:g}: give it more")
    parts = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    return math.floor(value * parts) / parts


def _planned(stages: Stages, jobs: Sequence[Job]) -> PlannedStages:
    made = []
    for stage, job in zip(stages.stages, jobs, strict=True):
        plans = {count: _site_plan(job, count) for count in set(stage.examples.values())}
        made.append(
            PlannedStage(
                job=job,
                share=stage.share,
                examples=stage.examples,
                plans={site: plans[count] for site, count in stage.examples.items()},
            )
        )
    together: dict[tuple[SampledPlan, ...], float] = {}
    spent = {}
    for site in made[0].plans:
        plans_of_site = tuple(stage.plans[site] for stage in made)
        if plans_of_site not in together:
            together[plans_of_site] = composed(plans_of_site)
        spent[site] = together[plans_of_site]
    return PlannedStages(
        name=stages.name, epsilon=stages.epsilon, delta=stages.delta, stages=tuple(made), spent=spent
    )


def _site_plan(job: Job, examples: int) -> SampledPlan:
    """What a site with so many examples plans by a job. Raises PlanError for another kind of plan."""
    plan = plan_training(job, examples)
    if type(plan) is not SampledPlan:
        raise PlanError(f"expected steps of one kind in a stage, got {type(plan).__name__} of {job.name}")
    return plan
