"""What a job says of numbers of sites is held against the run's sites, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError
from server.job_context import check_federation
from tests import tiny

SITES = [f"site-{number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("federation", "strategy", "said"),
    [
        ({"min_sites": 6}, {}, "federation.min_sites=6: expected at most 5"),
        ({"cohort": 3, "min_sites": 4}, {}, "federation.min_sites=4: expected at most 3"),
        ({"cohort": 6}, {}, "federation.cohort=6: expected at most 5, the number of the run's sites"),
        ({"weights": {"site-1": 1}}, {}, "federation.weights: .*'site-2'"),
        ({}, {"name": "krum", "malicious": 2}, '"krum" .* of 7 sites in a round, got 5'),
        ({"cohort": 4}, {"name": "multi_krum", "malicious": 1}, "of 5 sites in a round, got 4"),
        ({}, {"name": "bulyan", "malicious": 1}, "of 7 sites in a round, got 5"),
        ({"cohort": 0.4}, {"name": "median", "malicious": 1}, "of 3 sites in a round, got 2"),
    ],
)
def test_too_few_sites(
    federation: dict[str, Any], strategy: dict[str, Any], said: str, tiny_folder: Path
) -> None:
    with pytest.raises(JobError, match=said):
        check_federation(tiny.job(tiny_folder, federation=federation, strategy=strategy), SITES)


@pytest.mark.parametrize(
    ("federation", "strategy"),
    [
        ({"min_sites": 5}, {}),
        ({"cohort": 3, "min_sites": 3}, {}),
        ({"cohort": 0.999}, {}),
        ({}, {"name": "krum", "malicious": 1}),
        ({"cohort": 5}, {"name": "trimmed_mean", "malicious": 2}),
    ],
)
def test_enough_sites(federation: dict[str, Any], strategy: dict[str, Any], tiny_folder: Path) -> None:
    check_federation(tiny.job(tiny_folder, federation=federation, strategy=strategy), SITES)
