"""``confide site``: what a site's custodian decides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from protocol.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="Decide at a site: approve a run, or end one.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, as its manifest gives it.")]
Home = Annotated[Path, typer.Option("--home", metavar="HOME", help="The site's home.")]


@app.command()
def approve(
    run: Run,
    home: Home,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking again.")] = False,
) -> None:
    """Show a run that waits for the custodian, and approve it. The ledger keeps the approval."""
    from client.home import Home as SiteHome

    place = SiteHome(home)
    manifest = place.waiting(run)
    for line in _described(manifest):
        print(line)
    if not yes and not typer.confirm("Approve?"):
        print("Not approved; it still waits")
        return
    place.approve(manifest)
    print(f"Approved run {run}")


def _described(manifest: Manifest) -> Iterator[str]:
    """What a custodian must know of a manifest before approving it."""
    from server.formats import format_count

    job, privacy = manifest.job, manifest.job.privacy
    rounds = format_count(job.training.rounds, "round")
    yield f"Run {manifest.run}, manifest {manifest.digest.hex()}"
    yield f"  {job.task} on {job.model.source}, SHA-256 {manifest.base_digest[:16]}…"
    sites = format_count(manifest.cohort, "site")
    yield f"  {rounds} with {sites}, secure_aggregation={job.secure_aggregation}"
    if privacy.mechanism == "none":
        yield "  without noise: nothing would bound what leaves"
    else:
        yield f"  {privacy.mechanism}, epsilon={privacy.epsilon:g} at delta={privacy.delta:g}"
    if job.metrics.epsilon:
        yield f"  and epsilon={job.metrics.epsilon:g} for metrics on this site's examples"
    if job.seeds.noise is not None:
        yield "  seeds.noise is set: its noise can be drawn again, and so protects nobody"


@app.command()
def close(run: Run, home: Home) -> None:
    """End a run here for good. Steps that it never took stop counting where steps are counted."""
    from client.home import Home as SiteHome
    from server.formats import format_epsilon

    lost = SiteHome(home).close_run(run)
    counted = format_epsilon(lost if math.isfinite(lost) else None)
    print(f"Closed run {run}\n  what its data have lost counts as epsilon={counted} now")
