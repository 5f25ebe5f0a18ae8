"""Steps on a mix of sources: who is drawn how often, and what that costs whom."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.accounting.mixed_plan import Source, mixed_plan
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source

PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=1.0),
    clipping_norm=0.5,
    sampling_rate=0.2,
    steps=20,
    delta=1e-5,
)
SOURCES = (Source(examples=4000, rate=0.2), Source(examples=1000, rate=0.05))


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.2000001, float("nan")])
def test_a_rate_above_what_is_charged_is_refused(rate: float) -> None:
    with pytest.raises(PlanError, match=r"0 < rate <= sampling_rate=0\.2"):
        mixed_plan(PLAN, (Source(examples=10, rate=rate),))


def test_other_examples_than_the_sources_have_are_refused() -> None:
    with pytest.raises(PlanError, match="expected 5000 examples in all sources together, got 4999"):
        mixed_plan(PLAN, SOURCES).draw(keyed_source(1, "site", 1, 0), 4999)


def test_each_source_is_drawn_at_its_own_rate() -> None:
    plan, counts = mixed_plan(PLAN, SOURCES), np.zeros(5000)
    steps = 100
    for step in range(steps):
        drawn = plan.draw(keyed_source(7, "site", 1, step), 5000)
        assert (np.diff(drawn) > 0).all()
        counts[drawn] += 1
    for source, found in zip(SOURCES, (counts[:4000], counts[4000:]), strict=True):
        # Keyed draws, so this holds or fails for good: four standard deviations of a binomial mean.
        room = 4 * np.sqrt(source.rate * (1 - source.rate) / (steps * source.examples))
        assert abs(found.mean() / steps - source.rate) < room
        # As far from a rate that is a fifth off as it is near to its own.
        assert abs(found.mean() / steps - 1.2 * source.rate) > room


def test_one_source_is_drawn_as_without_a_mix() -> None:
    plan = mixed_plan(PLAN, (Source(examples=300, rate=0.2),))
    drawn = [one.draw(keyed_source(3, "site", 1, 0), 300) for one in (plan, PLAN)]
    assert np.array_equal(*drawn)


def test_what_is_charged_is_what_the_source_with_the_largest_rate_loses() -> None:
    plan = mixed_plan(PLAN, SOURCES)
    assert plan.epsilon == PLAN.epsilon == plan.of_source(0).epsilon
    alone = SampledPlan(
        mechanism=PLAN.mechanism, clipping_norm=0.5, sampling_rate=0.05, steps=20, delta=1e-5
    )
    assert plan.of_source(1) == alone
    assert plan.of_source(1).epsilon < 0.5 * plan.epsilon


def test_no_source_loses_more_than_asked_in_a_plan_for_the_largest_rate() -> None:
    # Shares of 3/4 and 1/4 of a batch of 40, of 600 and 500 examples: rates of 1/20 and 1/50.
    found = make_sampled_plan(
        mechanism="gaussian",
        epsilon=2.0,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=40,
        examples=800,
        steps=10,
    )
    plan = mixed_plan(found, (Source(examples=600, rate=0.05), Source(examples=500, rate=0.02)))
    losses = [plan.of_source(number).epsilon for number in range(2)]
    assert losses[1] < losses[0] <= 2.0
    assert losses[0] == pytest.approx(2.0, rel=0.01)
