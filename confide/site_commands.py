"""``confide site``: what a site's custodian decides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Decide at a site: approve a run, or end one.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, as its manifest gives it.")]
Home = Annotated[Path, typer.Option("--home", metavar="HOME", help="The site's home.")]


@app.command()
def approve(run: Run, home: Home) -> None:
    """Approve a run that waits for the custodian. The ledger keeps the approval."""
    from client.home import Home as SiteHome
    from server.formats import format_count

    manifest = SiteHome(home).approve(run)
    privacy = manifest.job.privacy
    private = privacy.mechanism != "none"
    promise = f"\n  epsilon={privacy.epsilon:g} at delta={privacy.delta:g}" if private else ""
    print(
        f"Approved run {run}\n  manifest {manifest.digest.hex()[:16]}…, "
        f"{format_count(manifest.job.training.rounds, 'round')}, mechanism={privacy.mechanism}{promise}"
    )


@app.command()
def close(run: Run, home: Home) -> None:
    """End a run here for good. Steps that it never took stop counting where steps are counted."""
    from client.home import Home as SiteHome
    from server.formats import format_epsilon

    lost = SiteHome(home).close_run(run)
    counted = format_epsilon(lost if math.isfinite(lost) else None)
    print(f"Closed run {run}\n  what its data have lost counts as epsilon={counted} now")
