"""The noise of stages: what one unit that is in all of them loses, against mathematics of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from client.session import plan_training
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PlanError
from protocol.job.job import Job
from simulation.progression.stage_noise import composed, plan_stages
from simulation.progression.stages import Stage, Stages
from tests.models import make_job

DELTA = 1e-5


def job(
    *, steps: int, batch: int, epsilon: float = 1.0, mechanism: str = "gaussian", delta: float = 1e-3
) -> Job:
    return make_job(
        targets=["q_proj"],
        training={"rounds": steps, "batch_size": batch, "physical_batch_size": 1},
        privacy={"epsilon": epsilon, "delta": delta, "mechanism": mechanism},
    )


def stages(
    jobs: Sequence[Job],
    sizes: Sequence[Sequence[int]],
    shares: Sequence[float | None] = (0.6, 0.4),
    *,
    epsilon: float = 8.0,
) -> Stages:
    return Stages(
        name="both",
        epsilon=epsilon,
        delta=DELTA,
        stages=tuple(
            Stage(
                job=one, share=share, examples={f"site-{n}": size for n, size in enumerate(each, start=1)}
            )
            for one, share, each in zip(jobs, shares, sizes, strict=True)
        ),
    )


def of_gaussians(plans: Sequence[SampledPlan]) -> float:
    """ε at δ of Gaussian releases of all data: of one with μ² = Σ T / σ² (Dong et al., 1905.02383)."""
    assert all(plan.sampling_rate == 1.0 for plan in plans)
    mu = math.sqrt(sum(plan.steps / plan.mechanism.multiplier**2 for plan in plans))

    def excess(epsilon: float) -> float:
        found = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        return float(found) - DELTA

    return float(brentq(excess, 0.0, 50.0))


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.9, 0.1), (None, None)])
def test_all_stages_together_are_within_what_was_asked(shares: tuple[float | None, ...]) -> None:
    jobs = job(steps=4, batch=50), job(steps=3, batch=80)
    planned = plan_stages(stages(jobs, [[50], [80]], shares))
    exact = of_gaussians([one.plans["site-1"] for one in planned.stages])
    assert 0.98 * 8.0 < exact <= 8.0
    # The accountant's is an upper bound on the exact one, and close.
    assert exact <= planned.spent["site-1"] <= 8.0
    alone = [one.job.privacy.epsilon for one in planned.stages]
    assert max(alone) < 8.0 < sum(alone)
    assert [one.job.privacy.delta for one in planned.stages] == [DELTA, DELTA]


def test_stages_that_each_have_all_of_it_are_not_within_it() -> None:
    """The mistake that the composition is for, and what adding ε up would waste."""

    def apart(*epsilons: float) -> list[SampledPlan]:
        jobs = [
            job(steps=steps, batch=batch, epsilon=epsilon, delta=DELTA)
            for steps, batch, epsilon in zip((4, 3), (50, 80), epsilons, strict=True)
        ]
        plans = [plan_training(one, one.training.batch_size) for one in jobs]
        assert all(type(plan) is SampledPlan for plan in plans)
        return [plan for plan in plans if isinstance(plan, SampledPlan)]

    for of in (composed, of_gaussians):
        assert of(apart(8.0, 8.0)) > 11.0
        assert of(apart(0.6 * 8.0, 0.4 * 8.0)) < 6.5


def test_the_shares_are_those_of_the_loss() -> None:
    jobs = job(steps=4, batch=50), job(steps=4, batch=50)
    loud, quiet = plan_stages(stages(jobs, [[500], [500]], (0.8, 0.2))).stages
    assert loud.plans["site-1"].mechanism.multiplier < quiet.plans["site-1"].mechanism.multiplier
    assert loud.job.privacy.epsilon > quiet.job.privacy.epsilon
    first, second = plan_stages(stages(jobs, [[500], [500]], (None, None))).stages
    assert first.job.privacy.epsilon == second.job.privacy.epsilon


def test_every_site_is_within_it_where_sites_differ() -> None:
    jobs = job(steps=6, batch=64), job(steps=4, batch=32)
    planned = plan_stages(stages(jobs, [[270, 600], [900, 300]]))
    assert set(planned.spent) == {"site-1", "site-2"}
    for site, spent in planned.spent.items():
        assert spent == composed([one.plans[site] for one in planned.stages])
        assert 7.0 < spent <= 8.0
    # What a site plans is by the job alone, as in any run.
    for one in planned.stages:
        for plan in one.plans.values():
            assert plan.epsilon <= one.job.privacy.epsilon


def test_stages_without_noise_stay_as_they_are() -> None:
    jobs = [job(steps=2, batch=8, mechanism="none") for _ in range(2)]
    planned = plan_stages(stages(jobs, [[50], [50]]))
    assert [one.job for one in planned.stages] == jobs
    assert planned.spent == {"site-1": math.inf}


def test_a_promise_that_no_noise_keeps_is_refused() -> None:
    jobs = [job(steps=2, batch=8) for _ in range(2)]
    with pytest.raises(PlanError):
        plan_stages(stages(jobs, [[50], [50]], epsilon=1e-6))
