"""Runs on a mix of sources: each site draws each source at its own rate, and is charged the largest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.session import on_a_mix, plan_training
from privacy.accounting.mixed_plan import MixedPlan
from privacy.errors import DataError, PlanError, UserError
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job import Job
from protocol.job.mix import planned_examples
from runs.run_folder import RunFolder
from simulation.attack.empirical_audit import check_canaries_fit
from simulation.forecast.forecast import forecast
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 texts of one source, and 120 of another."""
    found = tmp_path_factory.mktemp("mixed")
    tiny.table(found)
    tiny.write_csv(found / "other.csv", tiny.rows(360, seed=1)[240:])
    return found


def mixed(folder: Path, *, share: float = 0.5, name: str = "other.csv", **changes: Any) -> Job:
    source = {"alias": "other", "source": str(folder / name), "share": share}
    data = {"mix": [source], **changes.pop("data", {})}
    training = {"rounds": 2, "batch_size": 8, "physical_batch_size": 8, **changes.pop("training", {})}
    return tiny.job(folder, data=data, training=training, **changes)


def test_a_source_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.mix, alias='other': .*missing\.csv"):
        World(mixed(folder, name="missing.csv"))


def test_a_site_with_too_few_of_a_source_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "few.csv", tiny.rows(3, seed=2))
    (tmp_path / "few.csv").rename(folder / "few.csv")
    with pytest.raises(DataError, match=r"data\.mix: site-\d got no examples of 'other'"):
        World(mixed(folder, name="few.csv"))
    with pytest.raises(PlanError, match=r"site-1: data\.mix: expected at least \d+ examples of 'other'"):
        forecast(mixed(folder, share=0.9, training={"batch_size": 64}))


def test_canaries_at_one_rate_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.mix: expected none: canaries"):
        check_canaries_fit(mixed(folder))


def test_a_sites_examples_lie_source_by_source(folder: Path) -> None:
    world = World(mixed(folder))
    for name in world.site_names:
        rows, parts = world._rows[name], world.parts[name]
        assert sum(parts) == len(rows) == len(world.examples(name))
        assert (rows[: parts[0]] < 240).all()
        assert (rows[parts[0] :] >= 240).all()
    held_out = len(world.held_out)
    assert (
        held_out + sum(world.sizes.values()) == 354
    )  # six texts of the second source stand in the first, too


def test_each_site_is_charged_for_its_largest_rate(folder: Path, tmp_path: Path) -> None:
    job = mixed(folder)
    world = World(job)
    run = simulate(job, runs=tmp_path)
    for name, parts in world.parts.items():
        home = run.folder / "sites" / name
        asked = planned_examples(job, parts)
        plan = plan_training(job, asked)
        # Of 8 drawn on average, 4 are of each source: the smaller one's examples pay most.
        assert plan.sampling_rate >= 4 / min(parts)
        assert plan.sampling_rate == pytest.approx(4 / min(parts), rel=0.02)
        assert plan.epsilon <= job.privacy.epsilon
        audited = audit_ledger(home / "ledger.db")
        begun = [entry.event.plan for entry in audited.entries if hasattr(entry.event, "plan")]
        assert begun[0] == plan
        assert charges(home)[-1].taken == plan.steps
        own = on_a_mix(plan, job, parts)
        assert isinstance(own, MixedPlan)
        assert own.of_source(0).epsilon < own.of_source(1).epsilon <= plan.epsilon
    assert RunFolder.open(run.folder).manifest.job.data.mix == job.data.mix


@pytest.mark.statistics
def test_what_trains_draws_each_source_by_its_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[MixedPlan, np.ndarray]] = []
    draw = MixedPlan.draw

    def noted(plan: MixedPlan, source: Any, examples: int) -> Any:
        found = draw(plan, source, examples)
        drawn.append((plan, found))
        return found

    monkeypatch.setattr(MixedPlan, "draw", noted)
    job = mixed(folder, training={"rounds": 1, "local_steps": 40})
    job = job.model_copy(update={"seeds": job.seeds.model_copy(update={"noise": 5})})
    world = World(job)
    simulate(job, runs=folder / "runs")
    assert {plan.sources[0].examples for plan, _ in drawn} <= {parts[0] for parts in world.parts.values()}
    assert len(drawn) == 3 * 40
    first = np.array([(found < plan.sources[0].examples).sum() for plan, found in drawn])
    rest = np.array([len(found) for _, found in drawn]) - first
    # Keyed draws: four of each source on average, within four standard deviations of a mean of 120.
    assert abs(first.mean() - 4) < 4 * 2 / np.sqrt(120)
    assert abs(rest.mean() - 4) < 4 * 2 / np.sqrt(120)


@pytest.mark.exhaustive
def test_the_forecast_says_what_each_source_loses(folder: Path) -> None:
    found = forecast(mixed(folder))
    told = [remark for remark in found.remarks if remark.startswith("data.mix: ")]
    assert [one.split()[4] for one in told] == ["data", "other"]
    assert sum(site.examples for site in found.sites) == sum(World(mixed(folder)).sizes.values())


@pytest.mark.parametrize(
    "privacy",
    [{"mechanism": "none"}, {"unit": "site", "mechanism": "gaussian", "noise": "central"}],
    ids=["none", "site"],
)
def test_steps_without_noise_draw_each_source_at_its_rate(
    folder: Path, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    job = mixed(folder, privacy=privacy, training={"rounds": 1})
    run = simulate(job, runs=tmp_path)
    assert len(run.rounds) == 1
