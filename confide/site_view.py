"""What ``confide site status`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from confide.budget_view import print_budgets
from confide.console import plain_console, plain_table, print_json, printable, shown
from runs.formats import format_seconds

if TYPE_CHECKING:
    from client.agent.site_status import SiteStatus
    from protocol.messages.confide_pb2 import AgentHealth


def print_site_status_json(status: SiteStatus) -> None:
    """One JSON object and nothing else; ``agent`` is null where none answers."""
    print_json(
        {
            "site": status.site,
            "home": str(status.home),
            "agent": None if status.agent is None else _as_table(status.agent),
            "datasets": [asdict(item) for item in status.budgets],
            "waiting": [asdict(item) for item in status.waiting],
        }
    )


def print_site_status(status: SiteStatus) -> None:
    """The agent, the budgets and the runs that wait, for people: fits 80 columns."""
    console = plain_console()
    table = plain_table("agent", "state", "run", "round", "step", "queue", "up", left=3)
    agent = status.agent
    if agent is None:
        table.add_row(shown(status.site), "[yellow]down[/yellow]", "", "", "", "", "")
    else:
        step = f"{agent.step}/{agent.steps}" if agent.steps else ""
        table.add_row(
            shown(agent.site),
            shown(agent.state),
            shown(agent.run),
            str(agent.round) if agent.run else "",
            step,
            str(agent.queued),
            format_seconds(agent.uptime),
        )
    console.print(table)
    console.print()
    print_budgets(status.budgets, None)
    for waiting in status.waiting:
        command = f"confide site approve {waiting.run} --home {status.home}"
        console.print(printable(f"\nRun {waiting.run} waits for you: {command}"), markup=False)


def _as_table(agent: AgentHealth) -> dict[str, Any]:
    return {
        "version": agent.version,
        "state": agent.state,
        "run": agent.run or None,
        "round": agent.round,
        "step": agent.step,
        "steps": agent.steps,
        "queued": agent.queued,
        "uptime": agent.uptime,
    }
