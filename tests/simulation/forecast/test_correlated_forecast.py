"""What is foretold of correlated noise, and that it is proposed where it goes with a job."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from confide.plan_view import print_forecast
from simulation.forecast.forecast import Forecast, forecast
from simulation.forecast.noise_level import Setup
from simulation.forecast.suggestions import suggest
from simulation.simulated_federation import World
from tests import tiny

FFA: dict[str, Any] = {"strategy": {"name": "ffa"}, "training": {"rounds": 6, "decay": "linear"}}


def setup_of(folder: Path, **privacy: Any) -> Setup:
    job = tiny.job(folder, **FFA, privacy=privacy)
    world = World(job)
    return Setup(job=job, layout=world.adapted.layout, examples=(64, 64, 64))


@pytest.fixture(scope="module")
def found(tiny_folder: Path) -> Forecast:
    return forecast(tiny.job(tiny_folder, **FFA, privacy={"noise_correlation": "auto"}))


@pytest.mark.statistics
def test_the_run_has_as_much_less_noise_as_each_site(tiny_folder: Path, found: Forecast) -> None:
    plain = setup_of(tiny_folder).noise_level()
    (ratio,) = {site.noise_ratio for site in found.sites}
    assert {site.bands for site in found.sites} == {4}
    assert ratio < 0.8
    assert found.noise.run == pytest.approx(ratio * plain.run)
    # More bands than the batches that a site has are none that "auto" may choose.
    assert 4 * 16 <= 64 < 8 * 16


@pytest.mark.exhaustive
def test_people_read_what_is_left(found: Forecast) -> None:
    console = Console(width=80, file=io.StringIO())
    print_forecast(found, console)
    (line,) = [one for one in console.file.getvalue().splitlines() if "by correlation" in one]
    assert line.split()[-4:] == [f"{found.sites[0].noise_ratio:.2f}", "with", "4", "bands"]


def test_it_is_proposed_where_it_helps_and_goes_with_the_job(tiny_folder: Path) -> None:
    plain = setup_of(tiny_folder)
    run = plain.noise_level().run
    (proposed,) = [one for one in suggest(plain, run=run) if "take back" in one.text]
    changed = setup_of(tiny_folder, noise_correlation="banded", bands=4)
    assert proposed.settings == ("privacy.noise_correlation=banded", "privacy.bands=4")
    assert proposed.after == pytest.approx(changed.noise_level().run)
    # Not twice, and no rule that does not go with it.
    again = suggest(changed, run=changed.noise_level().run)
    assert not [one for one in again if "take back" in one.text or "strategy" in " ".join(one.settings)]
    fedsvd = Setup(job=tiny.job(tiny_folder), layout=plain.layout, examples=plain.examples)
    assert not [one for one in suggest(fedsvd, run=1.0) if "take back" in one.text]
