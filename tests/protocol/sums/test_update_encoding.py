"""Grids of a run: the same at both ends, with room for what training makes, or refused before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.session import plan_training
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.errors import JobError, PlanError, ProtocolError
from privacy.mechanisms.clipping import clip
from privacy.mechanisms.rng import keyed_source
from protocol.job.manifest import Manifest, read_manifest
from protocol.sums.sum_kinds import check_encoding
from protocol.sums.update_encoding import (
    make_encoding,
    plan_for_site,
    update_noise_std,
    update_reach,
    vector_size,
)
from tests.server.runs import make_job

SIZE = 500
SHARED: dict[str, Any] = {"unit": "site", "mechanism": "skellam", "epsilon": 8.0, "delta": 1e-3}
CENTRAL: dict[str, Any] = SHARED | {"mechanism": "gaussian", "noise": "central"}


def make_manifest(cohort: int = 5, **sections: Any) -> Manifest:
    return Manifest(
        run="run",
        job=make_job(**({"aggregation": {"kind": "masks"}, "strategy": {"name": "ffa"}} | sections)),
        cohort=cohort,
        labels=("bad", "good"),
        model_digest="a" * 64,
        layout_digest="b" * 64,
    )


# What is refused.


@pytest.mark.parametrize("bits", [16, 20, 32])
@pytest.mark.parametrize("noise_std", [math.nan, math.inf, -math.inf, -1e-9])
def test_a_noise_that_is_no_deviation_is_refused(bits: int, noise_std: float) -> None:
    manifest = make_manifest(aggregation={"modulus_bits": bits})
    with pytest.raises(ProtocolError, match="noise_std >= 0 and finite"):
        make_encoding(manifest, update_size=SIZE, number=1, noise_std=noise_std)


@pytest.mark.parametrize(
    ("cohort", "sections", "words"),
    [
        # Noise for 2,000,000 rounded numbers does not fit beside them.
        (5, {"privacy": SHARED | {"epsilon": 0.05}, "aggregation": {"modulus_bits": 16}}, "bits=16"),
        (5, {"privacy": SHARED | {"epsilon": 1e-6, "delta": 1e-9}}, "epsilon=1e-06"),
        (5, {"privacy": CENTRAL | {"epsilon": 1e-6, "delta": 1e-9}}, "epsilon=1e-06"),
        (
            5,
            {"privacy": CENTRAL | {"epsilon": 1e-6, "delta": 1e-9}, "aggregation": {"kind": "none"}},
            "epsilon=1e-06",
        ),
    ],
)
def test_a_job_without_room_is_refused_before_a_run_is_made(
    cohort: int, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=f"privacy, aggregation: .*({words})"):
        check_encoding(make_manifest(cohort, **sections), update_size=2_000_000)


def test_what_is_refused_with_16_bits_goes_with_32() -> None:
    for sections in ({"privacy": SHARED | {"epsilon": 1.0}}, {"privacy": SHARED}, {}):
        for size in (1, SIZE, 100_000):
            check_encoding(make_manifest(**sections), update_size=size)


# Both ends.


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([16, 20, 32]),
    number=st.integers(1, 2**32 - 1),
    noise_std=st.floats(0.0, 10.0),
    kind=st.sampled_from(["none", "random"]),
    optimizer=st.sampled_from(["sgd", "adam"]),
)
def test_both_ends_make_the_same_grid(
    bits: int, number: int, noise_std: float, kind: str, optimizer: str
) -> None:
    """A site has read the manifest as bytes, and the noise as a double of a message."""
    manifest = make_manifest(
        aggregation={"modulus_bits": bits}, compression={"kind": kind}, training={"optimizer": optimizer}
    )
    ends = [
        make_encoding(one, update_size=SIZE, number=number, noise_std=noise_std)
        for one in (manifest, read_manifest(manifest.content))
    ]
    assert ends[0] == ends[1]
    assert ends[0].dimension == vector_size(manifest.job, SIZE) == (50 if kind == "random" else SIZE)
    assert ends[0].ring.bits == bits
    assert (ends[0].rotation is None) == (bits == 32)
    assert (ends[0].reach is None) == (bits != 32)


@pytest.mark.parametrize("privacy", [SHARED, CENTRAL])
@pytest.mark.parametrize("bits", [16, 20, 32])
def test_the_plan_is_the_same_for_every_site_and_the_coordinator(
    privacy: dict[str, Any], bits: int
) -> None:
    if privacy is CENTRAL and bits != 32:
        with pytest.raises(JobError, match="modulus_bits"):
            make_manifest(privacy=privacy, aggregation={"modulus_bits": bits})
        return
    manifest = make_manifest(
        privacy=privacy,
        aggregation={"modulus_bits": bits, "colluding": 1, "threshold": 4},
        federation={"min_sites": 4},
    )
    plan, again = (
        plan_for_site(one, update_size=SIZE) for one in (manifest, read_manifest(manifest.content))
    )
    assert plan == again
    assert (plan.unit, plan.steps, plan.sampling_rate) == ("site", 2, 1.0)
    assert 7.9 < plan.epsilon <= 8.0
    encoding = make_encoding(manifest, update_size=SIZE, number=1, plan=plan)
    if isinstance(plan, SharedSitePlan):
        # What noise was calibrated for is what this grid, and that of any other sum, makes of an update.
        for number in (1, 2, 999):
            other = make_encoding(manifest, update_size=SIZE, number=number, plan=plan)
            assert other.sensitivity(plan.clipping_norm) == plan.shared.sensitivity
        assert (plan.shared.min_survivors, plan.shared.colluding) == (4, 1)
        # Six deviations of the noise of all five sites have room.
        whole = plan.mechanism.multiplier * plan.shared.sensitivity.l2 * math.sqrt(5 / 3)
        assert 6 * whole < 2 ** (bits - 1)
    else:
        assert encoding.scale > 0


def test_each_sum_is_turned_by_a_seed_of_its_own() -> None:
    manifest = make_manifest(aggregation={"modulus_bits": 16})
    other = make_manifest(cohort=6, aggregation={"modulus_bits": 16})
    seeds = {
        make_encoding(one, update_size=SIZE, number=number).rotation
        for one in (manifest, other)
        for number in (1, 2, 3)
    }
    assert len(seeds) == 6


# Room for what training makes.


def test_the_stated_constants() -> None:
    """64 norms of the steps for gradients, and four learning rates a step for Adam."""
    training = {"learning_rate": 0.5, "local_steps": 3}
    privacy = {"clipping_norm": 2.0}
    assert update_reach(make_manifest(training=training, privacy=privacy).job) == 64.0 * 0.5 * 3 * 2.0
    adam = make_manifest(training=training | {"optimizer": "adam"}, privacy=privacy)
    assert update_reach(adam.job) == 4.0 * 0.5 * 3
    whole = make_encoding(adam, update_size=SIZE, number=1)
    assert whole.reach == update_reach(adam.job)
    # What waits makes a sum longer: by √((2 − s) / s), 4.36 at a tenth.
    waiting = make_manifest(training=training, compression={"kind": "random", "share": 0.1})
    plain = make_manifest(training=training)
    longer = make_encoding(waiting, update_size=SIZE, number=1).reach
    assert longer is not None
    assert longer / update_reach(plain.job) == pytest.approx(math.sqrt(19), rel=1e-12)


@pytest.mark.parametrize("local_steps", [1, 4])
def test_the_noise_that_a_site_tells_is_that_of_its_update(local_steps: int) -> None:
    """A step's noise over the expected batch, times the learning rate, over independent steps."""
    manifest = make_manifest(training={"local_steps": local_steps, "learning_rate": 0.5, "batch_size": 64})
    plan, training = plan_training(manifest.job, 5000), manifest.job.training
    draws = 20_000
    update = sum(
        training.learning_rate
        / training.batch_size
        * plan.mechanism.release(
            clip(np.zeros(draws), bound=plan.clipping_norm, norm=2), keyed_source(0, step)
        )
        for step in range(local_steps)
    )
    # ln of a sample variance of n draws deviates by √(2/n), 0.01; six of them err once in 5e8 times.
    told = update_noise_std(manifest.job, plan)
    for factor in (2 / 3, 1.0, 3 / 2):
        found = abs(math.log(np.mean(np.square(update)) / (factor * told) ** 2))
        assert (found < 0.06) == (factor == 1.0)


def test_there_is_no_noise_to_tell_of_without_any_and_where_it_is_in_the_sum() -> None:
    silent = make_manifest(privacy={"mechanism": "none"})
    assert update_noise_std(silent.job, plan_training(silent.job, 5000)) == 0.0
    shared = make_manifest(privacy=SHARED)
    assert update_noise_std(shared.job, plan_for_site(shared, update_size=SIZE)) == 0.0


@pytest.mark.parametrize("bits", [16, 20])
def test_more_noise_makes_a_coarser_grid_and_none_too_much_is_taken(bits: int) -> None:
    manifest = make_manifest(aggregation={"modulus_bits": bits})
    scales = [
        make_encoding(manifest, update_size=SIZE, number=1, noise_std=noise_std).scale
        for noise_std in (0.0, 0.1, 1.0, 10.0)
    ]
    assert scales == sorted(scales, reverse=True)
    with pytest.raises(PlanError, match="noise_std"):
        make_encoding(manifest, update_size=SIZE, number=1, noise_std=1e13)
