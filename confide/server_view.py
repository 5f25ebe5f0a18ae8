"""What ``confide server status`` shows."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, print_json, printable, shown
from runs.formats import format_epsilon

if TYPE_CHECKING:
    from server.service.server_status import RunStatus, ServerStatus

_HOW = {"nginx": " behind nginx", "embedded": " behind the embedded proxy", "none": " without a proxy"}


def print_status_json(status: ServerStatus) -> None:
    """One JSON object and nothing else."""
    print_json(asdict(status))


def print_status(status: ServerStatus) -> None:
    """Sites, certificates and runs for people: fits 80 columns."""
    console = plain_console()
    state = "[yellow]not running[/yellow]"
    if status.proxy is not None:
        state = f"[green]running[/green]{_HOW[status.proxy]}"
    console.print(f"[bold]{shown(status.federation)}[/bold] at {shown(status.address)}: {state}\n")
    sites = plain_table("site", "state", "since", left=3)
    for site in status.sites:
        sites.add_row(shown(site.site), shown(site.state), _when(site.since))
    console.print(sites if status.sites else "No site was provisioned yet.")
    console.print()
    for name, day in status.certificates.items():
        console.print(f"{shown(name)} holds until {day}")
    if status.runs:
        runs = plain_table("run", "state", "rounds", "ε, dearest site", left=2)
        for run in status.runs:
            runs.add_row(shown(run.run), shown(run.state), f"{run.done}/{run.rounds}", _epsilon(run))
        console.print()
        console.print(runs)
    for run in status.runs:
        if run.reason:
            console.print(f"\n{printable(run.run)}: {printable(run.reason)}", markup=False, soft_wrap=False)
    if not status.running:
        console.print("\nThe server is not running, so nobody knows who is connected: confide server start")


def _epsilon(run: RunStatus) -> str:
    return format_epsilon(run.epsilon) if run.done else ""


def _when(since: str | None) -> str:
    """A moment in this machine's own time."""
    return "" if since is None else f"{datetime.fromisoformat(since).astimezone():%Y-%m-%d %H:%M}"
