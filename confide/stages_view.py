"""What ``confide simulate`` and ``confide plan`` show of stages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table, print_json, printable, shown
from confide.terminal import choose_display
from privacy.errors import UserError
from runs.formats import format_count, format_delta, format_epsilon
from runs.run import new_name
from simulation.progression.progression import PAGE, Progression
from simulation.progression.stage_noise import PlannedStages, plan_stages
from simulation.progression.stages import read_stages
from simulation.progression.stages_page import describe_total

if TYPE_CHECKING:
    from simulation.simulated_run import Engine


def begin_stages(
    path: Path,
    *,
    settings: Iterable[str],
    runs: Path,
    name: str | None,
    policy: Path | None,
    homes: Path | None,
    json: bool,
) -> Progression:
    """Read stages and plan their noise, say what each is promised, and make their folder."""
    planned = _planned(path, settings)
    begun = Progression.begin(planned, runs / (name or new_name(planned)), policy=policy, homes=homes)
    if not json:
        _print_plans(planned)
        print(printable(f"Stages: {begun.path}"))
    return begun


def run_stages(
    begun: Progression, *, json: bool, engine: Engine, workers: int | None, compare: bool, profile: bool
) -> None:
    """Run the stages that are left, each shown as a run, and say what all have cost."""
    for number in begun.left:
        with choose_display(json=json) as display:
            stage = begun.stages[number]
            display.stage(f"Stage {number + 1} of {len(begun.stages)}: {stage.job.name}")
            run = begun.run(
                number, engine=engine, workers=workers, compare=compare, profile=profile, progress=display
            )
            display.finished(run)
    spent, adapter = begun.spent(), begun.adapter(len(begun.stages) - 1)
    if json:
        print_json(
            {
                "event": "stages",
                "folder": str(begun.path),
                "adapter": str(adapter),
                "alone": {one.run: one.epsilon for one in spent.stages},
                "epsilon": dict(spent.together),
                "delta": spent.delta,
            }
        )
        return
    for one in spent.stages:
        print(printable(f"{one.name}: ε = {format_epsilon(one.epsilon)} alone"))
    for line in (describe_total(spent), f"stages  {begun.path / PAGE}", f"adapter {adapter}"):
        print(printable(line))


def plan_and_print(
    path: Path, *, settings: Iterable[str], json: bool, homes: Iterable[Path] | None
) -> None:
    """Say what noise each stage gets, and what all cost a unit that is in each of them."""
    if homes:
        raise UserError("--site: expected a job, not stages: plan each stage's job, with its ε, for a site")
    planned = _planned(path, settings)
    if json:
        print_json(_as_table(planned))
    else:
        _print_plans(planned)


def _planned(path: Path, settings: Iterable[str]) -> PlannedStages:
    from rich.console import Console

    with Console(stderr=True, emoji=False).status("Reading the stages' data and planning their noise"):
        return plan_stages(read_stages(path, settings=settings))


def _as_table(planned: PlannedStages) -> dict[str, Any]:
    protects = planned.protects
    return {
        "name": planned.name,
        "delta": planned.delta,
        "epsilon": {site: spent if protects else None for site, spent in planned.spent.items()},
        "stages": [
            {
                "name": one.job.name,
                "task": one.job.task,
                "epsilon": one.job.privacy.epsilon if protects else None,
                "sites": {
                    site: {
                        "examples": one.examples[site],
                        "sampling_rate": plan.sampling_rate,
                        "steps": plan.steps,
                        "noise_multiplier": plan.mechanism.multiplier,
                    }
                    for site, plan in one.plans.items()
                },
            }
            for one in planned.stages
        ],
    }


def _print_plans(planned: PlannedStages) -> None:
    """A row a stage; where sites differ, figures are of the one with the fewest examples."""
    console = plain_console()
    table = plain_table("stage", "task", "examples", "rate", "steps", "σ", "ε alone", left=2)
    for one in planned.stages:
        site = min(one.examples, key=lambda name: one.examples[name])
        plan = one.plans[site]
        table.add_row(
            shown(one.job.name),
            shown(one.job.task),
            f"{one.examples[site]:,}",
            f"{plan.sampling_rate:.2g}",
            str(plan.steps),
            f"{plan.mechanism.multiplier:.3g}",
            format_epsilon(one.job.privacy.epsilon if planned.protects else None),
        )
    console.print(table)
    sites = format_count(len(planned.spent), "site")
    if planned.protects:
        console.print(
            f"A unit that is in all stages loses ε = {format_epsilon(max(planned.spent.values()))} of "
            f"{planned.epsilon:g} at δ = {format_delta(planned.delta)}, at any of {sites}."
        )
    else:
        console.print(f"Without privacy, at {sites}.")
