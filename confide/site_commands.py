"""``confide site``: what a site's custodian decides."""

from __future__ import annotations

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

    manifest = SiteHome(home).approve(run)
    privacy = manifest.job.privacy
    print(
        f"Approved run {run}: manifest {manifest.digest.hex()[:16]}…, "
        f"{manifest.job.training.rounds} rounds, {privacy.mechanism}, "
        f"epsilon={privacy.epsilon:g} at delta={privacy.delta:g}"
    )


@app.command()
def close(run: Run, home: Home) -> None:
    """End a run here for good. Steps that it never took stop counting where steps are counted."""
    from client.home import Home as SiteHome

    left = SiteHome(home).close_run(run)
    print(f"Closed run {run}: the data's loss counts as epsilon={left:.3g} now")
