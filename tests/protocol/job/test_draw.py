"""Cohorts are drawn alike by all, evenly, and each site once a pass."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from protocol.job.draw import Draw, cohort_size
from protocol.job.job_file import parse_job
from protocol.job.manifest import MOST_DRAWN, Manifest, read_manifest


def draw(sites: int, size: int, rounds: int, seed: int = 0) -> Draw:
    names = tuple(f"site-{number:03d}" for number in range(sites))
    return Draw(sites=names, size=size, rounds=rounds, seed=seed)


@given(
    sites=st.integers(1, 30), share=st.floats(0.01, 1.0), rounds=st.integers(1, 40), seed=st.integers(0, 9)
)
def test_every_round_has_its_size_and_no_site_gets_ahead(
    sites: int, share: float, rounds: int, seed: int
) -> None:
    size = cohort_size(min(share, 0.999), sites=sites)
    drawn, counts = draw(sites, size, rounds, seed), Counter[str]()
    for number in range(1, rounds + 1):
        assert len(drawn.cohort(number)) == size
        counts.update(drawn.cohort(number))
        assert max(counts.values()) - min(counts[site] for site in drawn.sites) <= 1
    assert max(counts.values()) <= math.ceil(rounds * size / sites)
    assert all(drawn.rounds_of(site) == counts[site] for site in drawn.sites)
    assert drawn.cohort(rounds + 1) == drawn.cohort(rounds)


def test_a_draw_is_the_same_everywhere_and_another_by_another_seed() -> None:
    """Pinned: sites of two versions must draw alike, or each would refuse the other's rounds."""
    assert sorted(draw(10, 3, 4).cohort(1)) == ["site-002", "site-006", "site-007"]
    assert any(draw(10, 3, 4).cohort(n) != draw(10, 3, 4, seed=1).cohort(n) for n in range(1, 5))


def test_what_a_pass_draws_is_random() -> None:
    """Over seeds each of 10 sites is in round 1 with probability 3/10: 2,000 draws, 5 deviations."""
    counts = Counter(site for seed in range(2000) for site in draw(10, 3, 1, seed).cohort(1))
    deviation = math.sqrt(2000 * 0.3 * 0.7)
    assert all(abs(counts[site] - 600) < 5 * deviation for site in draw(10, 3, 1).sites)


@pytest.mark.parametrize(("cohort", "size"), [(None, 40), (7, 7), (100, 40), (0.1, 4), (0.001, 1)])
def test_a_cohort_is_a_number_or_a_share(cohort: float | None, size: int) -> None:
    assert cohort_size(cohort, sites=40) == size


def make_manifest(*, cohort: int = 3, sites: tuple[str, ...] = (), **sections: Any) -> Manifest:
    table = {
        "model": {"source": "base"},
        "adapter": {"target_modules": ["query"]},
        "data": {"source": "rows.csv", "label": "label", "labels": ["no", "yes"]},
        "aggregation": {"kind": "none"},
    }
    return Manifest(
        run="run",
        job=parse_job(table | sections),
        cohort=cohort,
        sites=sites,
        labels=("no", "yes"),
        model_digest="",
        layout_digest="",
    )


def drawing(**changes: Any) -> Manifest:
    made = make_manifest(federation={"cohort": 2}, training={"rounds": 5}, cohort=2, sites=("a", "b", "c"))
    return replace(made, **changes)


def test_a_manifest_says_who_is_in_which_round() -> None:
    manifest = read_manifest(drawing().content)
    assert manifest == drawing()
    assert manifest.site_count == 3
    assert manifest.most_rounds == 4 == max(manifest.rounds_of(site) for site in "abc")
    assert sum(manifest.rounds_of(site) for site in "abc") == 10
    for number in range(1, 6):
        assert {site for site in "abc" if manifest.draws(site, number)} == manifest.drawn(number)
    assert not manifest.draws("d", 1)
    assert manifest.rounds_of("d") == 0


def test_without_a_cohort_every_site_is_in_each_round() -> None:
    manifest = make_manifest()
    assert manifest.drawn(1) is None
    assert manifest.draws("any", 1)
    assert manifest.most_rounds == manifest.rounds_of("any") == manifest.job.training.rounds


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"cohort": 3}, "expected cohort=2"),
        ({"sites": ()}, "sites to draw from"),
        ({"sites": ("b", "a", "c")}, "in order"),
        ({"sites": ("a", "a", "c")}, "each once"),
        ({"sites": ("a", "b\u202e", "c")}, "a site's name"),
    ],
)
def test_a_manifest_that_would_draw_otherwise_is_none(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        drawing(**changes)


def test_a_stranger_cannot_make_a_site_draw_for_long() -> None:
    names = tuple(sorted(f"site-{number}" for number in range(200)))
    with pytest.raises(ProtocolError, match=str(MOST_DRAWN)):
        make_manifest(federation={"cohort": 100}, training={"rounds": 20_001}, cohort=100, sites=names)
