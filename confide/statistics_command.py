"""``confide stats``: what the sites' data are like, before a job says how to train on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def stats(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job file with [statistics].")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job, as statistics.epsilon=1."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="SITE.TOML", help="The policy of each simulated site, as its custodian's."),
    ] = None,
    homes: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where sites keep their homes, and so their ledgers, over runs."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder that new runs go under.")] = Path("confide-runs"),
    run_name: Annotated[str | None, typer.Option(help="The new run's name.")] = None,
) -> None:
    """Count labels, lengths and columns at simulated sites, under noise that is charged for."""
    from rich.console import Console

    with Console(quiet=json, emoji=False).status("Reading the data and counting at the sites"):
        from confide.statistics_view import print_statistics, print_statistics_json
        from simulation.simulated_statistics import ask_statistics
        from tasks.registry import read_job

        parsed = read_job(job, settings=settings or ())
        found = ask_statistics(parsed, runs=runs, name=run_name, policy=policy, homes=homes)
    if json:
        print_statistics_json(found)
    else:
        print_statistics(found)
