"""The norm that a whole update may have as it leaves a site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sums.update_norm import within_norm
from privacy.errors import JobError
from protocol.messages.vector import from_bytes
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import join, train


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e30]),
    norm=st.sampled_from([1e-6, 0.5, 1.0, 100.0]),
)
def test_no_update_is_longer_and_a_longer_one_keeps_its_direction(
    size: int, seed: int, scale: float, norm: float
) -> None:
    update = (scale * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)
    found = within_norm(update, norm).astype(np.float64)
    length = np.linalg.norm(update.astype(np.float64))
    assert np.linalg.norm(found) <= norm
    expected = update.astype(np.float64) * min(1.0, norm / length if length else 1.0)
    # A step of the grid is the norm over 2^40. Clipping leaves room for rounding, a part in a million;
    # float32 rounds by 2^-24 of each number, and its bound is lower by 2^-23.
    np.testing.assert_allclose(found, expected, rtol=1.2e-6, atol=norm * 2.0**-39)


def test_one_that_is_not_finite_becomes_zero_and_none_bounds_nothing() -> None:
    update = np.array([1.0, np.inf, np.nan], np.float32)
    assert not within_norm(update, 1.0).any()
    assert within_norm(update, None) is update


def test_what_a_site_sends_is_within_the_norm(tiny_folder: Path, tmp_path: Path) -> None:
    sent = []
    for name, norm in (("free", None), ("bound", 0.25)):
        training = {} if norm is None else {"update_norm": norm}
        world = World(tiny.job(tiny_folder, training=training, seeds={"noise": 3}))
        site, manifest = world.site("site-1", home=tmp_path / name / "site-1"), world.manifest("run")
        join(site, manifest)
        update = train(site, manifest, world).trained.update
        sent.append(from_bytes(update, size=world.adapted.layout.update_size).astype(np.float64))
    free, bound = sent
    assert np.linalg.norm(free) > 0.5
    assert 0.2499 < np.linalg.norm(bound) <= 0.25
    np.testing.assert_allclose(bound / np.linalg.norm(bound), free / np.linalg.norm(free), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {
                "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 50.0},
                "aggregation": {"kind": "masks"},
            },
            "privacy.clipping_norm bounds",
        ),
        (
            {"compression": {"kind": "top-k"}, "strategy": {"name": "ffa"}},
            'expected none with compression.kind="top-k"',
        ),
    ],
)
def test_jobs_that_it_does_not_go_with_are_refused(
    changes: dict[str, Any], reason: str, tiny_folder: Path
) -> None:
    with pytest.raises(JobError, match=rf"training.update_norm: .*{reason}"):
        tiny.job(tiny_folder, training={"update_norm": 1.0}, **changes)
    tiny.job(tiny_folder, training={"update_norm": 1.0}, aggregation={"kind": "masks"})
