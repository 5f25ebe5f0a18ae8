"""``confide site``: what a site's custodian types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.console import printable
from confide.shared_options import Json
from privacy.errors import UserError

if TYPE_CHECKING:
    from protocol.job.manifest import Manifest
    from protocol.job.statistics_section import StatisticsSection

app = typer.Typer(no_args_is_help=True, help="Run a site, and decide there: approve a run, or end one.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, as its manifest gives it.")]
Home = Annotated[
    Path, typer.Option("--home", metavar="HOME", help="The site's home, or the site.toml in it.")
]
Site = Annotated[Path, typer.Argument(metavar="SITE.TOML", help="The site's site.toml, or its home.")]
SITE = Path("site.toml")


@app.command()
def start(
    site: Site = SITE,
    agent_only: Annotated[
        bool, typer.Option("--agent-only", help="Run only what has the data; the relay runs elsewhere.")
    ] = False,
    relay_only: Annotated[
        bool, typer.Option("--relay-only", help="Run only what talks to the coordinator.")
    ] = False,
) -> None:
    """Answer the federation until Ctrl-C: the agent, and the relay that connects to the coordinator."""
    if agent_only and relay_only:
        raise UserError("expected --agent-only or --relay-only, got both: without them, both run")
    import os

    # The relay is started by fork and exec at once: gRPC has nothing to put in order between the two.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

    from client.agent.running import run_site
    from client.custody.site_file import find_home, find_site_file, read_site_file
    from protocol.processes.json_log import log_to_terminal

    log_to_terminal()
    path = find_site_file(site)
    run_site(
        find_home(path).resolve(),
        read_site_file(path),
        agent=not relay_only,
        relay=not agent_only,
        say=_say,
    )


@app.command()
def status(
    site: Site = SITE,
    json: Json = False,
) -> None:
    """Show what a site's agent does, what its data have left, and which runs wait for the custodian."""
    from client.agent.site_status import read_site_status
    from client.custody.site_file import find_home, find_site_file
    from confide.site_view import print_site_status, print_site_status_json

    path = find_site_file(site)
    found = read_site_status(find_home(path).resolve(), path)
    (print_site_status_json if json else print_site_status)(found)


@app.command()
def check(
    site: Site = SITE,
    json: Json = False,
) -> None:
    """Read a site's data as its agent would, and say which rows are blank and why. Nobody else hears."""
    from client.custody.data_check import check_data
    from client.custody.site_file import find_site_file, read_site_file
    from confide.check_view import print_data_checks, print_data_checks_json

    found = check_data(read_site_file(find_site_file(site)))
    (print_data_checks_json if json else print_data_checks)(found)


@app.command()
def keys(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The folder that is to be the site's home.")],
) -> None:
    """Make a site's own keys where they are missing, and print the two lines for federation.toml."""
    from datetime import UTC, datetime

    from client.custody.make_keys import make_own_keys, public_lines

    print(public_lines(make_own_keys(home, now=datetime.now(UTC))))


@app.command()
def approve(
    run: Run,
    home: Home,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking again.")] = False,
) -> None:
    """Show a run that waits for the custodian, and approve it. The ledger keeps the approval."""
    from client.custody.home import Home as SiteHome
    from client.custody.site_file import find_home

    place = SiteHome(find_home(home))
    manifest = place.waiting(run)
    for line in _described(manifest):
        print(printable(line))
    if not yes and not typer.confirm("Approve?"):
        print("Not approved; it still waits")
        return
    place.approve(manifest)
    print(f"Approved run {run}")


def _counted(manifest: Manifest, asked: StatisticsSection) -> Iterator[str]:
    """The same of a run of statistics, in which nothing is trained."""
    from runs.formats import format_count

    job = manifest.job
    reads = "the sum alone" if job.aggregation.hidden else "each site's own"
    what = ["labels"] * asked.labels + ["lengths"] * (asked.lengths is not None)
    what += [*asked.numbers, *asked.categories]
    yield f"  statistics of {job.data.alias}, for {job.task}: {', '.join(what)}"
    sites = format_count(manifest.cohort, "site")
    yield f"  one release with {sites}, aggregation.kind={job.aggregation.kind}"
    yield f"  of the noisy counts the coordinator reads {reads}"
    yield f"  gaussian, epsilon={asked.epsilon:g} at delta={job.privacy.delta:g} for all of it together"


def _described(manifest: Manifest) -> Iterator[str]:
    """What a custodian must know of a manifest before approving it."""
    from protocol.sums.sum_kinds import sum_kind
    from runs.formats import format_count

    job, privacy = manifest.job, manifest.job.privacy
    rounds = format_count(job.training.rounds, "round")
    yield f"Run {manifest.run}, manifest {manifest.digest.hex()}"
    if job.statistics is not None:
        yield from _counted(manifest, job.statistics)
        return
    yield f"  {job.task} on {job.model.source}"
    yield f"  model {manifest.model_digest}"  # whole: rules.models takes it
    sites = format_count(manifest.cohort, "site")
    yield f"  {rounds} with {sites}, aggregation.kind={job.aggregation.kind}"
    yield f"  {sum_kind(job).who_reads(manifest)}"
    if not privacy.protects:
        yield "  without noise: nothing would bound what leaves"
    else:
        whole = {"site": " for the site as a whole", "group": " for each group of rows"}.get(
            privacy.unit, ""
        )
        yield f"  {privacy.mechanism}, epsilon={privacy.epsilon:g} at delta={privacy.delta:g}{whole}"
    if privacy.correlated:
        yield "  correlated noise, whose seed stays in this home until the run's last step"
    if job.federation.weights is not None:
        yield "  federation.weights tells all sites how much each one counts"
    if privacy.noise == "central":
        yield "  the coordinator adds the noise, and knows the sum without it"
    if job.metrics.epsilon:
        yield f"  and epsilon={job.metrics.epsilon:g} for metrics on this site's examples"
    if job.training.personal_steps:
        own = format_count(job.training.personal_steps, "step")
        yield f"  then {own} for an adapter that stays here, within the epsilon above"
    if job.seeds.noise is not None:
        yield "  seeds.noise is set: its noise can be drawn again, and so protects nobody"


@app.command()
def close(run: Run, home: Home) -> None:
    """End a run here for good. Steps that it never took stop counting where steps are counted."""
    from client.custody.home import Home as SiteHome
    from client.custody.site_file import find_home
    from runs.formats import format_epsilon

    lost = SiteHome(find_home(home)).close_run(run)
    counted = format_epsilon(lost if math.isfinite(lost) else None)
    print(f"Closed run {run}\n  what its data have lost counts as epsilon={counted} now")


@app.command()
def adapter(
    run: Run,
    home: Home,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="The folder to write; RUN-adapter if unset.")
    ] = None,
) -> None:
    """Write this site's own adapter of a run, with all that never left it, as a folder for PEFT."""
    from dataclasses import replace

    from client.custody.home import Home as SiteHome
    from client.custody.model_sources import local_job
    from client.custody.site_file import find_home, find_site_file, read_site_file
    from confide.kept_adapter import export_own

    place = SiteHome(find_home(home))
    manifest = place.joined(run)
    local = local_job(manifest.job, read_site_file(find_site_file(home)).models)
    there = replace(manifest, job=manifest.job.model_copy(update={"data": local.data}))
    to = to or Path(f"{run}-adapter")
    export_own(there, place.memory(manifest), to, source=local.model.source)


@app.command("accept-clock")
def accept_clock(
    site: Site = SITE,
    yes: Annotated[bool, typer.Option("--yes", help="Accept it without asking again.")] = False,
) -> None:
    """Let the ledger go on by this machine's clock, though its last entry is of quite another time."""
    import time

    from client.custody.home import Home as SiteHome
    from client.custody.site_file import find_home
    from privacy.ledger.ledger_clock import in_days, is_off
    from protocol.moments import utc_minute

    place = SiteHome(find_home(site))
    last, now = place.last_time(), int(time.time())
    if not is_off(now, last=last, seen=None):
        raise UserError(
            f"the clock is {utc_minute(now)}, and the ledger's last entry is of {utc_minute(last)}: there "
            "is nothing to accept"
        )
    apart = f"{in_days(abs(now - last))} {'before' if now < last else 'after'} the ledger's last entry"
    print(f"This machine's clock says {utc_minute(now)} (UTC), {apart}, of {utc_minute(last)}")
    if not yes and not typer.confirm("Is the clock right?"):
        print("Nothing was changed: set the clock right")
        return
    place.accept_clock()
    print("Accepted; the ledger keeps that, and goes on from here")


@app.command()
def unfreeze(
    site: Site = SITE,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="What was found and mended; the ledger keeps it."),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Clear it without asking again.")] = False,
) -> None:
    """Let a ledger that an audit has frozen go on. The ledger keeps who cleared what, and why."""
    from client.custody.home import Home as SiteHome
    from client.custody.site_file import find_home
    from privacy.ledger.entries import Frozen
    from protocol.moments import utc_minute

    place = SiteHome(find_home(site))
    entry = place.frozen()
    if entry is None or not isinstance(entry.event, Frozen):
        raise UserError(f"the ledger of {place.site_name()} is not frozen: there is nothing to clear")
    if not reason.strip():
        raise UserError(
            "--reason: expected what was found and mended, got nothing: others will want to know"
        )
    frozen = entry.event
    print(
        printable(
            f"Entry {entry.number}, {utc_minute(entry.time)} (UTC): frozen by an audit of job "
            f"{frozen.job}\n"
            f"  {frozen.reason}\n"
            f"  evidence: {place.path / 'audits' / frozen.audit}.json"
        )
    )
    if not yes and not typer.confirm("Is what it found mended?"):
        print("It stays frozen")
        return
    place.unfreeze(entry.number, reason)
    left = place.frozen()
    print(
        "Cleared; the ledger keeps that, and spends again"
        if left is None
        else f"Cleared; the ledger keeps that, and is still frozen by entry {left.number}"
    )


def _say(line: str) -> None:
    print(printable(line), flush=True)
