"""The fewest sites are the fewest: with one fewer noise is high, whatever is hidden."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.forecast.crowd import fewest_sites
from simulation.forecast.noise_level import HIGH, Setup
from tests import tiny

SHAPES = {"layer.query.lora_A.weight": (4, 64), "layer.query.lora_B.weight": (64, 4)}
WHOLE_SITES = {"unit": "site", "mechanism": "skellam", "noise": "distributed", "clipping_norm": 0.5}


def setup_of(folder: Path, *, sites: int = 3, least: int | None = None, **changes: Any) -> Setup:
    federation = {"sites": sites, "min_sites": least} | changes.pop("federation", {})
    job = tiny.job(folder, strategy={"name": "fedit"}, federation=federation, **changes)
    return Setup(job=job, layout=job.strategy.lay_out(SHAPES), examples=(60,) * sites)


@pytest.mark.parametrize("noise", ["distributed", "central"])
def test_one_fewer_is_too_few_where_sites_are_hidden(tiny_folder: Path, noise: str) -> None:
    changes: dict[str, Any] = {"privacy": WHOLE_SITES | {"epsilon": 2.0}, "aggregation": {"kind": "masks"}}
    if noise == "central":
        changes["privacy"] |= {"noise": "central", "mechanism": "gaussian"}

    def level(sites: int) -> float:
        return setup_of(tiny_folder, sites=sites, **changes).noise_level().run

    setup = setup_of(tiny_folder, **changes)
    found = fewest_sites(setup, run=level(3))
    assert found is not None
    assert found > 3
    assert level(found) <= HIGH < level(found - 1)


def test_one_fewer_is_too_few_where_examples_are_hidden(tiny_folder: Path) -> None:
    setup = setup_of(tiny_folder, privacy={"epsilon": 0.5})
    run = setup.noise_level().run
    found = fewest_sites(setup, run=run)
    assert found is not None
    assert found == math.ceil(3 * (run / HIGH) ** 2)
    assert replace(setup, examples=(60,) * found).noise_level().run <= HIGH
    assert replace(setup, examples=(60,) * (found - 1)).noise_level().run > HIGH


def test_a_round_waits_for_as_large_a_part_of_more_sites(tiny_folder: Path) -> None:
    """Two of three counted on is two thirds of however many; with all of them fewer are enough."""
    changes: dict[str, Any] = {"privacy": WHOLE_SITES | {"epsilon": 2.0}, "aggregation": {"kind": "masks"}}
    found = {}
    for least in (2, 3):
        setup = setup_of(tiny_folder, least=least, **changes)
        found[least] = fewest_sites(setup, run=setup.noise_level().run)
    some, every = found[2], found[3]
    assert some is not None
    assert every is not None
    assert some > every
    more = setup_of(tiny_folder, sites=some, least=math.ceil(some * 2 / 3), **changes)
    assert more.noise_level().run <= HIGH


def test_nothing_is_said_where_noise_is_low_or_sites_are_drawn(tiny_folder: Path) -> None:
    assert fewest_sites(setup_of(tiny_folder), run=HIGH) is None
    drawn = setup_of(tiny_folder, federation={"cohort": 2}, aggregation={"kind": "none"})
    assert fewest_sites(drawn, run=1.0) is None
