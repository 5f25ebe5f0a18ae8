"""What ``confide audit`` shows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confide.console import plain_table
from privacy.entries import Approved, Rebudgeted, Refused
from server.formats import format_count, format_delta, format_epsilon, format_left

if TYPE_CHECKING:
    from privacy.ledger_audit import AuditedPlan, LedgerAudit
    from server.run_audit import RunAudit

_HASH = 16


def ledger_table(audit: LedgerAudit) -> dict[str, Any]:
    """An audited ledger as JSON shows it."""
    return {
        "ok": True,
        "site": audit.site,
        "public_key": audit.public_key,
        "entries": len(audit.entries),
        "head": audit.head,
        "complete": audit.complete,
        "budget": {
            "epsilon": audit.budget.epsilon,
            "delta": audit.budget.delta,
            "order": audit.budget.order,
            "unit": audit.budget.unit,
            "adjacency": audit.budget.adjacency,
        },
        "datasets": [
            {
                "number": dataset.number,
                "fingerprint": dataset.fingerprint,
                "examples": dataset.examples,
                "epsilon": dataset.epsilon,
            }
            for dataset in audit.datasets
        ],
        "plans": [_plan_row(plan) for plan in audit.plans],
        "refusals": [
            {
                "entry": entry.number,
                "time": entry.time,
                "run": event.run,
                "rule": event.rule,
                "reason": event.reason,
            }
            for entry in audit.entries
            if isinstance(event := entry.event, Refused)
        ],
    }


def print_ledger(audit: LedgerAudit) -> None:
    """An audited ledger for people: fits 80 columns."""
    from rich.console import Console

    console, budget = Console(highlight=False, soft_wrap=True), audit.budget
    entries = format_count(len(audit.entries), "entry", "entries")
    console.print(f"[green]✓[/green] [bold]{audit.site}[/bold]: {entries}, every signature and total holds")
    console.print(f"  key {audit.public_key[:_HASH]}…, last entry {audit.head[:_HASH]}…")
    console.print(
        f"  each example's budget: ε = {budget.epsilon:g} at δ = {format_delta(budget.delta)}, "
        f"filter of order α = {budget.order}\n"
    )
    datasets = plain_table("data set", "examples", "ε lost", "ε left")
    for dataset in audit.datasets:
        lost = dataset.epsilon
        left = "none" if lost is None else format_left(budget.epsilon - lost)
        datasets.add_row(
            f"{dataset.number} ({dataset.fingerprint[:8]}…)",
            str(dataset.examples),
            format_epsilon(lost),
            left,
        )
    console.print(datasets if audit.datasets else "No data set is registered.")
    if audit.plans:
        plans = plain_table("run", "data set", "σ", "rate", "steps", "charges", "ε", "ε again")
        for plan in audit.plans:
            plans.add_row(*_plan_cells(plan))
        console.print()
        console.print(plans)
        console.print("  [dim]ε: of the whole plan, as written down; again: by a second accountant[/dim]")
    for entry in audit.entries:
        event, when = entry.event, time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.time))
        if isinstance(event, Refused):
            console.print(f"  {when} refused run {event.run} by {event.rule}", markup=False)
        elif isinstance(event, Approved):
            console.print(f"  {when} approved run {event.run}", markup=False)
        elif isinstance(event, Rebudgeted):
            console.print(f"  {when} the budget became ε = {event.epsilon:g}", markup=False)
    if not audit.complete:
        console.print(
            "\n[yellow]Caution:[/yellow] without ledger.head beside it, nobody can tell whether "
            "entries were cut off at the end."
        )


def run_table(audit: RunAudit) -> dict[str, Any]:
    """An audited run as JSON shows it."""
    return {
        "ok": True,
        "run": audit.run,
        "manifest": audit.manifest,
        "rounds": audit.rounds,
        "epsilon": audit.epsilon,
        "delta": audit.delta,
        "sites": [
            {
                "site": site.site,
                "taken": site.taken,
                "planned": site.planned,
                "epsilon": site.epsilon,
                "recomputed": site.recomputed,
                "charged_rounds": site.charged,
            }
            for site in audit.sites
        ],
    }


def print_run(audit: RunAudit) -> None:
    """An audited run for people."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"[green]✓[/green] [bold]{audit.run}[/bold]: {format_count(audit.rounds, 'round')}, "
        "every receipt holds"
    )
    console.print(
        f"  manifest {audit.manifest[:_HASH]}…, "
        f"ε = {audit.epsilon:g} at δ = {format_delta(audit.delta)} for the run\n"
    )
    table = plain_table("site", "steps", "ε", "ε again", "ledger")
    for site in audit.sites:
        again = format_epsilon(site.recomputed)
        table.add_row(
            site.site,
            f"{site.taken} of {site.planned}",
            format_epsilon(site.epsilon),
            again,
            _told(audit, site.charged),
        )
    console.print(table)
    if any(site.charged is None for site in audit.sites):
        console.print(
            "\n[yellow]Caution:[/yellow] without its ledger (--ledger), receipts are only a site's word."
        )


def _told(audit: RunAudit, charged: int | None) -> str:
    if charged is None:
        return "not given"
    again = charged - audit.rounds
    return "agrees" if again <= 0 else f"agrees; {format_count(again, 'round')} paid for and lost"


def _plan_row(plan: AuditedPlan) -> dict[str, Any]:
    return {
        "entry": plan.entry,
        "run": plan.run,
        "purpose": plan.purpose,
        "dataset": plan.dataset,
        "mechanism": plan.plan.mechanism.name,
        "multiplier": plan.plan.mechanism.multiplier,
        "sampling_rate": plan.plan.sampling_rate,
        "steps": plan.plan.steps,
        "taken": plan.taken,
        "charges": plan.charges,
        "closed": plan.closed,
        "delta": plan.plan.delta,
        "epsilon": plan.epsilon,
        "recomputed": plan.recomputed,
    }


def _plan_cells(plan: AuditedPlan) -> tuple[str, ...]:
    ended = ", closed" if plan.closed else ""
    name = plan.run if plan.purpose == "training" else f"{plan.run}, {plan.purpose}"
    return (
        name,
        str(plan.dataset),
        f"{plan.plan.mechanism.multiplier:.3g}",
        f"{plan.plan.sampling_rate:.3g}",
        f"{plan.taken}/{plan.plan.steps}{ended}",
        str(plan.charges),
        format_epsilon(plan.epsilon),
        format_epsilon(plan.recomputed),
    )
